"""Speed of composition: pairs and chains on one core and on two, and whole epochs on the fly as training takes them."""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from supcam.composition.composer import Composer, Composite
from supcam.composition.sources import SourceCrops
from supcam.composition.stream import ComposedEpochs, ComposedStream
from supcam.settings import ComposeSettings
from supcam.synthetic.sample import draw_crops

_PAIRS = ["instance+instance:touch", "instance+instance:overlap"]
_CHAIN = [0.0, 0.0, 1.0]
_EPOCH = 512  # composites of an epoch

Row = dict[str, object]


def settings_for(chain: bool) -> ComposeSettings:
    """Pairs of instances, or chains of four."""
    return ComposeSettings(cells=_PAIRS, chain_shares=_CHAIN if chain else [1.0])


def sources() -> SourceCrops:
    """Drawn chromosomes of eight cases."""
    return draw_crops(8, 24, 0)[0]


def accepted_per_second(composer: Composer, seconds: float, start: int = 0) -> float:
    """Composites of the length asked for that are accepted per second of wall time in this process."""
    length = 1 + len(composer.settings.chain_shares)
    begun, index, made = time.perf_counter(), start, 0
    while time.perf_counter() - begun < seconds:
        found = composer.compose(0, index)
        # A chain whose last source found no place ends earlier; it counts as what it was not asked to be: not at all.
        made += isinstance(found, Composite) and len(found.parents) >= length
        index += 1
    return made / (time.perf_counter() - begun)


def _work(job: tuple[bool, float, int]) -> float:
    chain, seconds, start = job
    composer = Composer(sources(), settings_for(chain))
    accepted_per_second(composer, 0.5)
    return accepted_per_second(composer, seconds, start)


def speed_rows(seconds: float) -> Iterator[Row]:
    """Pairs and chains on one and two cores, on the same drawn crops."""
    context = multiprocessing.get_context("spawn")
    for chain, name in ((False, "pairs"), (True, "chains")):
        for workers in (1, 2):
            with ProcessPoolExecutor(workers, context) as pool:
                rates = list(pool.map(_work, [(chain, seconds, 10**6 * worker) for worker in range(workers)]))
            plural = "core" if workers == 1 else "cores"
            yield {"name": f"{name}_per_second_{workers}{plural}", "value": round(sum(rates), 1), "unit": "1/s"}


def epoch_rows(rounds: int) -> Iterator[Row]:
    """Seconds that training waits for an epoch of pairs, composed when asked for and ahead by two workers.

    Training itself is a sleep as long as composing an epoch takes in one process.
    """
    stream = ComposedStream(sources(), settings_for(chain=False), size=64)
    training = 0.0
    for workers in (1, 2):
        epochs = ComposedEpochs(stream, count=_EPOCH, epochs=rounds + 2, workers=workers)
        waited = []
        for epoch in range(rounds + 2):
            begun = time.perf_counter()
            for _ in epochs.take(epoch):
                pass
            waited.append(time.perf_counter() - begun)
            training = training or waited[0]
            time.sleep(training)
        epochs.close()
        value = sum(waited[1:-1]) / rounds  # the first epoch waits for the processes to start
        yield {"name": f"epoch_wait_seconds_{workers}", "value": round(value, 3), "unit": "s", "composites": _EPOCH}


def main() -> None:
    """Print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="finish in a minute")
    quick = parser.parse_args().quick
    for rows in (speed_rows(1.0 if quick else 10.0), epoch_rows(2 if quick else 10)):
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
