"""Promotion in a real registry: the gate, the record, races, kills, the way back."""

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import pytest
from mlflow import MlflowClient
from sqlalchemy.exc import IntegrityError

from supcam.data.manifest import manifest_hash
from supcam.data.split_report import split_hash
from supcam.errors import SupcamError, UsageError
from supcam.registry import history, registration
from supcam.registry.evidence import ProjectCrops
from supcam.registry.lock import Busy
from supcam.registry.promotion import best_candidate, write_decision
from supcam.registry.reach import RegistryError
from supcam.registry.registration import register_candidate, shipped_hash
from supcam.registry.rules import Validation
from supcam.registry.store import Registry, Tag
from supcam.serving.engine import content_hash
from tests.registry.conftest import MakePackage, make_card, new_run
from tests.registry.crops import DATA, PASSED, SETTINGS, go, manifest, project_crops
from tests.support.forked import in_process, server
from tests.support.servers import database


def add(package: Path, uri: str, run_id: str, validation: Validation | None = PASSED) -> int:
    return register_candidate(package, run_id=run_id, tracking_uri=uri, validation=validation).number


def test_first_promotion_and_then_nothing_to_do(package: Path, registry_uri: str, run_id: str, tmp_path: Path) -> None:
    add(package, registry_uri, run_id)
    first = go(registry_uri)
    write_decision(first, tmp_path / "promote" / "decision.json")
    registry = Registry(registry_uri)
    assert (first.outcome, first.reason) == ("promoted", "first model in production")
    assert registry.aliases() == {"candidate": 1, "production": 1}
    text = json.dumps(asdict(first), indent=2, sort_keys=True) + "\n"
    assert (tmp_path / "promote" / "decision.json").read_text() == text
    again = go(registry_uri)
    assert (again.outcome, again.version, again.production) == ("nothing to do", 1, 1)
    assert len(registry.events()) == 1
    artifacts = {item.path for item in registry.client.list_artifacts(run_id, "promotion/000001")}
    assert artifacts == {"promotion/000001/decision.json", "promotion/000001/decision.html"}
    assert registry.version(1).tags["supcam.decision"] == "promoted"
    assert all(version.tags.get("current_stage") is None for version in registry.versions())


def test_better_replaces_and_worse_is_refused(
    make_package: MakePackage, registry_uri: str, run_id: str, tmp_path: Path
) -> None:
    for number, shift in ((1, 0.4), (2, 0.0)):
        add(make_package(number, shift=shift), registry_uri, new_run(registry_uri, tmp_path))
    registry = Registry(registry_uri)
    assert go(registry_uri, candidate=1).outcome == "promoted"
    better = go(registry_uri, candidate=2)
    assert (better.outcome, better.reason, better.comparison["crops"]) == ("promoted", "every rule passed", 40)
    assert better.comparison["figure"]["difference"] == pytest.approx(0.25)
    worse = go(registry_uri, candidate=1)
    assert worse.outcome == "refused"
    assert "version 1 was refused: macro_sensitivity against production" in worse.refusal
    assert registry.aliases() == {"candidate": 2, "production": 2, "previous": 1}


def test_the_same_network_with_other_code_that_travels_replaces(
    make_package: MakePackage, registry_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading or answering changed, so the same answers to the test crops are no tie."""
    add(make_package(1), registry_uri, new_run(registry_uri, tmp_path))
    assert go(registry_uri).outcome == "promoted"
    code = registration.shipped_code()
    changed = {**code, "errors.py": code["errors.py"] + "# a later version\n"}
    monkeypatch.setattr(registration, "shipped_code", lambda: changed)
    assert add(make_package(1), registry_uri, new_run(registry_uri, tmp_path)) == 2
    assert go(registry_uri).outcome == "promoted"


def test_a_repeated_refusal_is_recorded_once(package: Path, registry_uri: str, run_id: str) -> None:
    add(package, registry_uri, run_id, Validation(False, DATA))
    decisions = [go(registry_uri) for _ in range(3)]
    assert {decision.outcome for decision in decisions} == {"refused"}
    assert decisions[0].stops_pipeline
    registry = Registry(registry_uri)
    assert [event["action"] for event in registry.events()] == ["refused"]
    assert "production" not in registry.aliases()


def test_a_refusal_that_an_earlier_version_recorded_is_refused_again(
    package: Path, registry_uri: str, run_id: str
) -> None:
    """Its event does not name the rules that failed."""
    add(package, registry_uri, run_id, Validation(False, DATA))
    go(registry_uri)
    registry = Registry(registry_uri)
    tags = registry.client.get_registered_model("supcam").tags
    (name,) = (name for name, text in tags.items() if '"failed"' in text)
    event = {key: value for key, value in json.loads(tags[name]).items() if key != "failed"}
    registry.client.set_registered_model_tag("supcam", name, json.dumps(event))
    assert go(registry_uri).outcome == "refused"
    assert [event["action"] for event in registry.events()] == ["refused", "refused"]


def test_without_a_crop_that_neither_has_seen_only_force_promotes(
    make_package: MakePackage, registry_uri: str, run_id: str
) -> None:
    """Crops 900.. train the first model and judge the second: with nothing to compare, the floors alone promoted."""
    add(make_package(1), registry_uri, run_id)
    other = manifest_hash(manifest(900))
    card = make_card(data=other)
    card = card.model_copy(update={"data": card.data.model_copy(update={"split_hash": split_hash(manifest(900))})})
    add(make_package(2, card=card, crops_seed=900), registry_uri, run_id, Validation(True, other))
    go(registry_uri, candidate=1)
    # The crops that judged the first model are not in the project of the second.
    decision = go(registry_uri, candidate=2, crops=project_crops(900))
    rule = next(rule for rule in decision.rules if "against production" in rule.name)
    assert (decision.outcome, rule.passed) == ("refused", False)
    assert "fewer than 10 shared test crops" in rule.note and "--force REASON" in rule.note
    assert go(registry_uri, candidate=2, crops=project_crops(900), force="other stain").outcome == "promoted"


def test_the_page_of_a_decision_shows_every_rule(first_promoted: Registry) -> None:
    """A reason is text that a person typed: it must not become markup."""
    settings = SETTINGS.model_copy(update={"max_latency_ms": 1e-6})
    decision = go(first_promoted.uri, candidate=2, settings=settings, force="<script>alert(1)</script>")
    run = first_promoted.version(2).run_id
    page = Path(first_promoted.client.download_artifacts(run, "promotion/000002/decision.html")).read_text("utf-8")
    assert all(f"<tr><td>{rule.name}</td>" in page for rule in decision.rules)
    assert 'class="failed">failed</td>' in page and "<td>at most 1e-06 ms</td>" in page
    assert "&lt;script&gt;" in page and "<script" not in page
    assert "in place of version 1" in page


def test_force_is_recorded_with_its_reason(package: Path, registry_uri: str, run_id: str) -> None:
    add(package, registry_uri, run_id)
    settings = SETTINGS.model_copy(update={"max_latency_ms": 1e-6})
    assert go(registry_uri, settings=settings).outcome == "refused"
    assert go(registry_uri, settings=settings, force="agreed with the clinic").outcome == "promoted"
    event = Registry(registry_uri).events()[-1]
    assert event["action"] == "forced" and "agreed with the clinic" in event["reason"]


LONG_REASON = "Übereinkunft mit der Klinik: " + "x" * 6000


def promote_with_long_reasons(registry: Registry) -> None:
    """Two decisions with every rule in them and reasons longer than a tag of the registry may be."""
    strict = SETTINGS.model_copy(update={"max_latency_ms": 1e-6})
    for number in (1, 2):
        assert go(registry.uri, candidate=number, settings=strict).outcome == "refused"
        assert go(registry.uri, candidate=number, settings=strict, force=LONG_REASON).outcome == "promoted"
    history.rollback(registry, LONG_REASON)
    assert [event["action"] for event in registry.events()] == ["refused", "forced"] * 2 + ["rolled back"]
    assert max(len(value) for value in registry.client.get_registered_model("supcam").tags.values()) < 5000
    artifact = registry.client.download_artifacts(registry.version(2).run_id, "promotion/000004/decision.json")
    decision = json.loads(Path(artifact).read_text(encoding="utf-8"))
    assert LONG_REASON in decision["reason"] and decision["decision"]["comparison"]["crops"] == 40
    assert LONG_REASON in registry.version(1).tags["supcam.decision.reason"]


def test_both_models_are_judged_by_the_labels_of_the_project(first_promoted: Registry) -> None:
    """The tables of both packages keep a label that was corrected since, by which each answers every crop correctly."""
    whole = project_crops()
    corrected = whole.manifest.copy()
    corrected.loc[0, "type"] = "touching-overlapping"
    compared = go(first_promoted.uri, candidate=2, crops=ProjectCrops(corrected, whole.root)).comparison
    found = compared["sensitivity"]["touching-overlapping"]
    assert (found["crops"], found["candidate"], found["production"]) == (11, 10 / 11, 10 / 11)


def test_a_long_decision_did_not_fit_into_a_tag(two_versions: Registry) -> None:
    """MLflow keeps a registered model's tag in 5,000 characters: PostgreSQL refuses more, sqlite does not."""
    promote_with_long_reasons(two_versions)


@pytest.mark.stress
def test_a_long_decision_fits_into_postgresql(make_package: MakePackage, postgres_server: str, tmp_path: Path) -> None:
    uri = database(postgres_server, "registry")
    for seed in (1, 2):
        add(make_package(seed, card=make_card(code=f"code-{seed}")), uri, new_run(uri, tmp_path))
    promote_with_long_reasons(Registry(uri))


def test_an_experiment_never_moves_production(first_promoted: Registry) -> None:
    decision = go(first_promoted.uri, candidate=2, experiment=True)
    assert (decision.outcome, decision.version, decision.production) == ("candidate only", 2, 1)
    assert decision.reason == "a DVC experiment moves only the alias candidate, never production"
    assert first_promoted.aliases() == {"production": 1, "candidate": 2}


def test_rollback_and_what_was_rolled_back_stays_out(first_promoted: Registry) -> None:
    uri = first_promoted.uri
    with pytest.raises(RegistryError, match=r"none was in production before version 1\. No other version"):
        history.rollback(first_promoted)
    go(uri, candidate=2)
    assert first_promoted.aliases() == {"production": 2, "previous": 1, "candidate": 2}
    history.rollback(first_promoted, "misses crossings")
    assert first_promoted.aliases() == {"production": 1, "previous": 2, "candidate": 2}
    again = go(uri, candidate=2)
    assert again.outcome == "refused" and "not rolled back" in again.reason
    assert go(uri, candidate=2, force="cause found").outcome == "promoted"
    record = history.history(first_promoted)
    assert list(record["action"]) == ["forced", "refused", "rolled back", "promoted", "promoted"]
    assert list(record["number"]) == [5, 4, 3, 2, 1]
    assert record["why"][2] == "misses crossings"
    with pytest.raises(UsageError, match="in production already"):
        history.rollback(first_promoted, to=2)


def test_rollback_to_a_version_that_never_served_is_refused(
    make_package: MakePackage, first_promoted: Registry
) -> None:
    with pytest.raises(UsageError, match=r"version 2 never was in production\. No other version was in production"):
        history.rollback(first_promoted, to=2)
    with pytest.raises(RegistryError, match="no version 9; registered are 2, 1"):
        history.rollback(first_promoted, to=9)


def test_models_and_diff(first_promoted: Registry) -> None:
    table = history.models(first_promoted)
    assert list(table["version"]) == [2, 1]
    assert list(table["aliases"]) == ["candidate", "production"]
    changed = history.diff(first_promoted, "production", "candidate")
    assert list(changed.columns) == ["entry", "production", "candidate", "difference"]
    assert changed.set_index("entry").loc["code_hash"].tolist() == ["code-1", "code-2", None]
    assert not changed.map(lambda value: isinstance(value, (list, dict))).any(axis=None)
    with pytest.raises(RegistryError, match="no alias 'previous'"):
        history.diff(first_promoted, "previous", "candidate")


def test_best_candidate_is_by_validation_figure_of_the_present_data(
    make_package: MakePackage, registry_uri: str, run_id: str
) -> None:
    for seed, value in ((1, 0.7), (2, 0.9)):
        card = make_card().model_copy(update={"validation": {"macro_sensitivity": value}})
        add(make_package(seed, card=card), registry_uri, run_id)
    add(make_package(1, card=make_card(data="data-2")), registry_uri, run_id)
    registry = Registry(registry_uri)
    assert best_candidate(registry, "macro_sensitivity", data_hash=DATA).number == 2
    assert best_candidate(registry, "macro_sensitivity", run_id=run_id).number == 2
    assert best_candidate(registry, "macro_sensitivity", run_id=run_id[:8]).number == 2
    with pytest.raises(RegistryError, match="run 'nope' registered no model"):
        best_candidate(registry, "macro_sensitivity", run_id="nope")
    with pytest.raises(RegistryError, match="present data"):
        best_candidate(registry, "macro_sensitivity", data_hash="data-9")


def test_the_model_of_the_settings_is_promoted(two_versions: Registry) -> None:
    other = SETTINGS.model_copy(update={"model_name": "other"})
    with pytest.raises(RegistryError, match="other"):
        go(two_versions.uri, candidate=1, settings=other)
    assert two_versions.aliases().get("production") is None


def test_the_beginning_of_a_run_id_must_name_one_run(two_versions: Registry) -> None:
    for number, run in (("1", "run-of-a"), ("2", "run-of-ab")):
        two_versions.client.set_model_version_tag(two_versions.name, number, Tag.RUN, run)
    with pytest.raises(RegistryError, match=r"run .run-of. is ambiguous: run-of-a, run-of-ab\. Give more of its id"):
        best_candidate(two_versions, "macro_sensitivity", run_id="run-of")
    assert best_candidate(two_versions, "macro_sensitivity", run_id="run-of-a").number == 1  # a whole id is not one
    assert best_candidate(two_versions, "macro_sensitivity", run_id="run-of-ab").number == 2


@pytest.mark.parametrize("damaged", ["", "good", "nan", "inf", "-inf"])
def test_a_version_with_a_damaged_metric_is_below_all_others(two_versions: Registry, damaged: str) -> None:
    two_versions.client.set_model_version_tag(two_versions.name, "1", Tag.METRIC + "macro_sensitivity", "0.1")
    two_versions.client.set_model_version_tag(two_versions.name, "2", Tag.METRIC + "macro_sensitivity", damaged)
    assert best_candidate(two_versions, "macro_sensitivity", data_hash=DATA).number == 1


@pytest.mark.parametrize(
    "record", [{"passed": "yes", "manifest_hash": DATA}, {"passed": 1, "manifest_hash": DATA}, {"passed": True}]
)
def test_a_record_of_validation_with_other_contents_is_none(two_versions: Registry, record: dict[str, Any]) -> None:
    two_versions.client.set_model_version_tag(two_versions.name, "1", Tag.VALIDATION, json.dumps(record))
    decision = go(two_versions.uri, candidate=1)
    assert decision.outcome == "refused"
    assert ("data validation", "no record") in [(rule.name, rule.value) for rule in decision.rules]


def test_a_version_without_a_record_of_validation_is_refused(two_versions: Registry) -> None:
    two_versions.client.delete_model_version_tag(two_versions.name, "1", Tag.VALIDATION)
    decision = go(two_versions.uri, candidate=1)
    assert decision.outcome == "refused"
    assert ("data validation", "no record") in [(rule.name, rule.value) for rule in decision.rules]


def _race(uri: str, candidate: int, crops: ProjectCrops, start: Any, results: Any) -> None:
    start.wait(timeout=600)
    try:
        results.put((candidate, go(uri, candidate=candidate, crops=crops).outcome))
    except Busy as error:
        results.put((candidate, str(error)))


def test_two_promotions_at_once_one_wins_the_other_learns_why(two_versions: Registry) -> None:
    context = server(__name__)
    start, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_race, args=(two_versions.uri, number, project_crops(), start, results))
        for number in (1, 2)
    ]
    for worker in workers:
        worker.start()
    outcomes = dict(results.get(timeout=600) for _ in workers)
    for worker in workers:
        worker.join()
    promoted = [number for number, text in outcomes.items() if text == "promoted"]
    refused = [text for text in outcomes.values() if "another promotion" in text]
    assert len(promoted) + len(refused) == 2 and promoted, outcomes
    aliases = two_versions.aliases()
    assert aliases["production"] in promoted
    events = two_versions.events()
    assert [event["number"] for event in events] == list(range(1, len(promoted) + 1))
    assert not [model for model in two_versions.client.search_registered_models() if model.name != "supcam"]


def test_a_lock_that_goes_while_mlflow_looks_at_it_is_taken(two_versions: Registry) -> None:
    """MLflow's own answer when the name is taken at the insert and free again at the look-up that follows."""
    store = two_versions.client._get_registry_client().store
    insert, released = store._with_workspace_field, []

    def met_by_another(row: Any) -> Any:
        if not released and type(row).__name__ == "SqlRegisteredModel":
            released.append(row.name)
            raise IntegrityError("INSERT INTO registered_models", {}, Exception("UNIQUE constraint failed"))
        return insert(row)

    with mock.patch.object(store, "_with_workspace_field", met_by_another), two_versions.lock():
        assert released
        with pytest.raises(Busy):
            go(two_versions.uri, candidate=1)


def test_a_held_lock_names_its_holder_and_is_released(two_versions: Registry) -> None:
    with two_versions.lock(), pytest.raises(Busy, match=rf"process {os.getpid()} of .* Wait for it"):
        go(two_versions.uri, candidate=1)
    assert go(two_versions.uri, candidate=1).outcome == "promoted"


WRITES = (
    "set_registered_model_tag", "set_registered_model_alias", "delete_registered_model_tag", "set_model_version_tag",
    "log_dict", "log_text", "create_registered_model", "delete_registered_model", "log_artifacts",
    "create_model_version",
)  # fmt: skip


def _die_before(step: int, action: Callable[[], object]) -> None:
    """The process dies just before its n-th write to the registry."""
    left = [step]

    def fatal(original: Any) -> Any:
        def write(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return original(*arguments, **options)

        return write

    for name in WRITES:
        setattr(MlflowClient, name, fatal(getattr(MlflowClient, name)))
    action()


def _kill_at(step: int, action: Callable[..., object], *arguments: Any, **options: Any) -> bool:
    """Act in a process that is killed before its write ``step``. True: it finished."""
    code = in_process(_die_before, step, partial(action, *arguments, **options))
    assert code in (0, -signal.SIGKILL), code
    return code == 0


def roll_back(uri: str, to: int) -> None:
    history.rollback(Registry(uri), "killed", to=to)


def check_killed_promotion(registry: Registry, step: int) -> bool:
    """Kill a promotion of version 2 before its write ``step``: the registry is as before or done. True: it finished."""
    before = {"production": 1, "candidate": 2}
    after = {"production": 2, "previous": 1, "candidate": 2}
    finished = _kill_at(step, go, registry.uri, candidate=2, crops=project_crops())
    seen = registry.aliases()
    assert seen in (before, after), seen
    assert len(registry.events()) == (1 if seen == before else 2)
    with registry.lock():  # the next one to come completes or forgets it
        assert registry.aliases() == seen
    bare = registry.client.get_registered_model("supcam")
    assert {name: int(number) for name, number in bare.aliases.items()} == seen
    assert "supcam.pending" not in bare.tags
    assert not [model for model in registry.client.search_registered_models() if model.name != "supcam"]
    assert [event["number"] for event in registry.events()] == list(range(1, len(registry.events()) + 1))
    outcome = go(registry.uri, candidate=2).outcome
    assert outcome == ("promoted" if seen == before else "nothing to do")
    return finished


@pytest.mark.parametrize("step", [2, 3, 4])
def test_killed_at_a_write_the_registry_is_as_before_or_done(first_promoted: Registry, step: int) -> None:
    assert not check_killed_promotion(first_promoted, step)


@pytest.mark.stress
@pytest.mark.parametrize("step", range(13))
def test_killed_at_any_write(first_promoted: Registry, step: int) -> None:
    check_killed_promotion(first_promoted, step)


@pytest.mark.stress
def test_a_rollback_killed_at_any_write(both_promoted: Registry) -> None:
    """Killed before each write in turn, until one comes through: as before or done every time."""
    step, finished = 0, False
    while not finished:
        before = both_promoted.aliases()
        after = {**before, "production": before["previous"], "previous": before["production"]}
        # By its number: where a killed one came through, the version before is one that a rollback took out.
        finished = _kill_at(step, roll_back, both_promoted.uri, before["previous"])
        seen, record = both_promoted.aliases(), both_promoted.events()
        assert seen in (before, after)
        assert record[-1]["version"] == seen["production"]
        assert [event["number"] for event in record] == list(range(1, len(record) + 1))
        with both_promoted.lock():
            assert both_promoted.aliases() == seen
        step += 1
    assert step > 8


@pytest.mark.stress
def test_a_registration_killed_at_any_write(
    make_package: MakePackage, first_promoted: Registry, tmp_path: Path
) -> None:
    """Production never moves, and the next registration makes one version of the model, not two."""
    run = new_run(first_promoted.uri, tmp_path)
    step, finished = 0, False
    while not finished:
        package, number = make_package(1, card=make_card(data=f"data-{10 + step}")), 3 + step
        finished = _kill_at(step, register_candidate, package, run_id=run, tracking_uri=first_promoted.uri)
        assert first_promoted.aliases() in ({"production": 1, "candidate": seen} for seen in (number - 1, number))
        assert add(package, first_promoted.uri, run) == len(first_promoted.versions()) == number
        assert first_promoted.aliases() == {"production": 1, "candidate": number}
        version = first_promoted.version(number)
        held = first_promoted.package(version)
        assert content_hash(held, shipped_hash()) == version.tags["supcam.content"]
        step += 1
    assert step > 4


def test_a_registry_that_does_not_answer_is_named() -> None:
    for address in ("http://127.0.0.1:9", "http://127.0.0.1:x", "postgresql://127.0.0.1:9/mlflow"):
        scheme, _, place = address.partition("://")
        with pytest.raises(RegistryError, match=rf"the registry {address} does not answer.*MLFLOW_TRACKING_URI"):
            Registry(f"{scheme}://user:secret@{place}")


class Answering(BaseHTTPRequestHandler):
    """A server that gives every question one answer."""

    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()
        self.wfile.write(b"<html>no registry</html>")

    do_POST = do_GET


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (200, "the server {} is not an MLflow server"),
        (401, "the server {} wants a name and a password (401). Set MLFLOW_TRACKING_USERNAME and"),
        (403, "the server {} does not allow this to this user (403). Set MLFLOW_TRACKING_USERNAME"),
        (404, "the server {} is not an MLflow server: it does not answer as one. Check MLFLOW_TRACKING_URI"),
        (503, "the registry {} does not answer: Service Unavailable"),
    ],
)
def test_a_server_that_refuses_is_one_line_with_a_remedy(code: int, said: str) -> None:
    """The name before the @ was looked up as a part of the host, and the whole answer was shown; never the password."""
    with HTTPServer(("127.0.0.1", 0), type("Server", (Answering,), {"code": code})) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for command in (lambda registry: registry.resolve("production"), history.rollback, history.models):
            with pytest.raises(RegistryError) as error:
                command(Registry(f"http://user:secret@127.0.0.1:{server.server_port}"))
            assert said.format(f"http://127.0.0.1:{server.server_port}") in str(error.value)
            assert "secret" not in str(error.value) and "\n" not in str(error.value)
        server.shutdown()


def test_a_locked_database_is_one_line(two_versions: Registry) -> None:
    """After ten seconds it was an error of SQLAlchemy, with its SQL."""
    with sqlite3.connect(two_versions.uri.removeprefix("sqlite:///")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryError, match="is locked by another program that writes to it") as error:
            two_versions.aliases()
        assert "SELECT" not in str(error.value)


def test_a_missing_database_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is no registry at"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_errors_are_ours(two_versions: Registry) -> None:
    with pytest.raises(SupcamError, match="no model supcam is in production yet"):
        two_versions.resolve("production")
