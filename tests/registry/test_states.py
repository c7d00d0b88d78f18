"""States that people get a registry into, and the way out of each: deleted, damaged, moved by hand, and others."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from supcam.errors import UsageError
from supcam.registry import history, lock, promotion
from supcam.registry.client import load_production
from supcam.registry.lock import LOCK_SECONDS, Busy
from supcam.registry.reach import RegistryError
from supcam.registry.registration import register_candidate
from supcam.registry.rules import PACKAGE_RULE, Decision
from supcam.registry.store import PRODUCTION, Registry, Tag
from supcam.serving.engine import PackageError
from tests.registry.conftest import MakePackage, make_card, new_run
from tests.registry.crops import PASSED, SETTINGS, go


@pytest.fixture
def served(both_promoted: Registry) -> Registry:
    """Version 2 is in production, version 1 was before."""
    return both_promoted


def again(registry: Registry, make_package: MakePackage, number: int, folder: Path) -> int:
    """Register the package of version 1 or 2 again, as dvc repro does."""
    package = make_package(number, card=make_card(code=f"code-{number}"))
    run = new_run(registry.uri, folder)
    return register_candidate(package, run_id=run, tracking_uri=registry.uri, validation=PASSED).number


def damage(registry: Registry, number: int) -> Path:
    graph = registry.package(registry.version(number)) / "model.onnx"
    graph.write_bytes(b"damaged")
    return graph


def test_a_deleted_alias_comes_back_by_rollback(served: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    served.client.delete_registered_model_alias("supcam", PRODUCTION)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    with pytest.raises(RegistryError, match=r"has no alias 'production' any more .* Run: supcam rollback"):
        load_production()
    record = history.history(served)
    assert record["action"][0] == "removed by hand" and record["from"][0] == 2
    assert history.rollback(served)["version"] == 2
    assert served.aliases() == {"production": 2, "previous": 1, "candidate": 2}
    assert list(history.history(served)["action"][:2]) == ["rolled back", "removed by hand"]
    assert load_production().origin == "supcam version 2"


def test_after_a_deleted_alias_a_candidate_is_compared_with_the_last_version(
    served: Registry, make_package: MakePackage, tmp_path: Path
) -> None:
    """It was compared with nothing, as the first model."""
    served.client.delete_registered_model_alias("supcam", PRODUCTION)
    package = make_package(3, card=make_card(code="code-3"), shift=0.4)
    register_candidate(package, run_id=new_run(served.uri, tmp_path), tracking_uri=served.uri, validation=PASSED)
    decision = go(served.uri)
    assert decision.outcome == "refused" and "macro_sensitivity against production" in decision.reason
    assert decision.production is None  # what it was compared with is not in production
    assert any("compared with version 2, which was in production before" in rule.note for rule in decision.rules)
    very_same = go(served.uri, candidate=2)
    assert very_same.outcome == "promoted"
    assert very_same.reason == "every rule passed; version 2, which was in production, is the same model"


def test_a_deleted_version_gives_way_to_the_one_before(served: Registry) -> None:
    served.client.delete_model_version("supcam", "2")
    assert history.rollback(served, "it was deleted")["version"] == 1
    assert served.aliases()["production"] == 1
    assert list(history.history(served)["action"][:2]) == ["rolled back", "removed by hand"]


def test_after_a_deleted_version_a_candidate_is_compared_with_the_one_before(
    served: Registry, make_package: MakePackage, tmp_path: Path
) -> None:
    served.client.delete_model_version("supcam", "2")
    package = make_package(3, card=make_card(code="code-3"))
    register_candidate(package, run_id=new_run(served.uri, tmp_path), tracking_uri=served.uri, validation=PASSED)
    decision = go(served.uri)
    assert (decision.outcome, decision.production) == ("promoted", None)
    unread = "version 2, which was in production, cannot be read"
    assert decision.reason == f"every rule passed; {unread}; compared with version 1, which was in production before"


def test_a_deleted_previous_names_the_others(served: Registry, make_package: MakePackage, tmp_path: Path) -> None:
    package = make_package(3, card=make_card(code="code-3"))
    register_candidate(package, run_id=new_run(served.uri, tmp_path), tracking_uri=served.uri, validation=PASSED)
    assert go(served.uri).outcome == "promoted"
    served.client.delete_model_version("supcam", "2")
    with pytest.raises(RegistryError, match=r"supcam rollback --to N; those that were in production: 1$"):
        history.rollback(served)
    assert history.rollback(served, to=1)["version"] == 1


def test_files_of_production_that_were_damaged_or_deleted_are_written_again(
    served: Registry, make_package: MakePackage, tmp_path: Path
) -> None:
    """The same model met "nothing to do", and production stayed broken."""
    for harm in (damage, lambda registry, number: shutil.rmtree(damage(registry, number).parents[2])):
        harm(served, 2)
        assert not served.readable(2)
        assert again(served, make_package, 2, tmp_path) == 2
        assert served.readable(2)
        assert go(served.uri).outcome == "nothing to do"


def test_a_model_whose_run_was_deleted_comes_back(served: Registry, make_package: MakePackage, tmp_path: Path) -> None:
    version = served.version(2)
    shutil.rmtree(served.package(version).parents[1])
    served.client.set_model_version_tag("supcam", "1", "kept", "yes")
    client: Any = served.client
    store = client._tracking_client.store
    client.delete_run(version.run_id)
    store._hard_delete_run(version.run_id)
    # Its files lie in a logged model, which outlives the run.
    assert again(served, make_package, 2, tmp_path) == 2
    assert served.readable(2)
    assert served.aliases()["production"] == 2


def test_a_damaged_production_is_replaced_after_a_comparison_with_the_one_before(
    served: Registry, make_package: MakePackage, tmp_path: Path
) -> None:
    damage(served, 2)
    for shift, outcome in ((0.4, "refused"), (0.0, "promoted")):
        package = make_package(3, card=make_card(code=f"code-{shift}"), shift=shift)
        register_candidate(package, run_id=new_run(served.uri, tmp_path), tracking_uri=served.uri, validation=PASSED)
        decision = go(served.uri)
        assert decision.outcome == outcome
        assert any("version 2, which was in production, cannot be read" in rule.note for rule in decision.rules)


def test_without_any_readable_production_only_force_promotes(
    served: Registry, make_package: MakePackage, tmp_path: Path
) -> None:
    damage(served, 1)
    damage(served, 2)
    package = make_package(3, card=make_card(code="code-3"))
    register_candidate(package, run_id=new_run(served.uri, tmp_path), tracking_uri=served.uri, validation=PASSED)
    decision = go(served.uri)
    assert (decision.outcome, decision.production, served.aliases()["production"]) == ("refused", 2, 2)
    assert "no version that was in production can be read, so nothing can be compared" in decision.rules[-1].note
    assert go(served.uri, force="both were damaged").outcome == "promoted"


def test_the_only_production_cannot_be_read(first_promoted: Registry) -> None:
    damage(first_promoted, 1)
    decision = go(first_promoted.uri, candidate=2)
    assert (decision.outcome, decision.production) == ("refused", 1)


def test_files_that_change_after_they_were_judged_are_not_promoted(
    first_promoted: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = promotion._judged

    def then_damaged(registry: Registry, *arguments: Any) -> Decision:
        decision = judged(registry, *arguments)
        assert decision.outcome == "promoted"
        damage(registry, 2)
        return decision

    monkeypatch.setattr(promotion, "_judged", then_damaged)
    assert go(first_promoted.uri, candidate=2).outcome == "refused"
    assert first_promoted.aliases()["production"] == 1


def test_a_damaged_candidate_is_refused_by_its_own_number(served: Registry) -> None:
    damage(served, 1)
    decision = go(served.uri, candidate=1)
    assert (decision.outcome, decision.version, decision.production) == ("refused", 1, 2)
    (rule,) = decision.rules
    assert (rule.name, rule.passed, rule.allowed) == (PACKAGE_RULE, False, "whole, sound and as it was registered")
    assert "model.onnx was changed" in str(rule.value)
    assert decision.reason == f"{PACKAGE_RULE}: {rule.value}"


@pytest.mark.parametrize("allowed", [False, True])
def test_stored_answers_are_compared_only_where_a_setting_allows_them(served: Registry, allowed: bool) -> None:
    settings = SETTINGS.model_copy(update={"allow_stored_answers": allowed})
    history.rollback(served, "compare it once more")
    decision = go(served.uri, candidate=2, crops=None, settings=settings)
    rule = next(rule for rule in decision.rules if rule.name == "macro_sensitivity against production")
    assert ("answers are stored ones" in rule.note, decision.comparison == {}) == (allowed, not allowed)


def test_rollback_does_not_bring_damaged_files_back(served: Registry) -> None:
    damage(served, 1)
    with pytest.raises(RegistryError, match=r"version 1 cannot come back: .*model\.onnx was changed"):
        history.rollback(served)
    assert served.aliases()["production"] == 2


def test_a_second_rollback_put_the_withdrawn_model_back(served: Registry) -> None:
    history.rollback(served, "misses crossings")
    with pytest.raises(UsageError, match=r"version 2, .* taken out .* supcam rollback --to N; .*: 2$"):
        history.rollback(served)
    assert served.aliases()["production"] == 1
    assert history.rollback(served, "cause found", to=2)["version"] == 2
    assert history.rollback(served)["version"] == 1  # the withdrawal was taken back


def test_an_alias_moved_by_hand_is_in_the_record(served: Registry) -> None:
    served.client.set_registered_model_alias("supcam", PRODUCTION, "1")
    top = history.history(served).iloc[0]
    assert (top["action"], top["version"], top["from"], top["when"]) == ("moved by hand", 1, 2, "")
    for _ in range(2):  # the next command that writes records it, once
        with served.lock():
            pass
    record = history.history(served)
    assert list(record["action"]) == ["moved by hand", "promoted", "promoted"] and record["when"][0]
    assert history.rollback(served, to=2)["from"] == 1


@pytest.mark.parametrize(
    "text", ["", "{", '{"action": "promoted"}', '{"number": 1, "action": 3, "version": "x"}', "[]"]
)
def test_a_damaged_event_is_read_from_its_version(served: Registry, text: str) -> None:
    """It was a KeyError in every command."""
    whole = served.events()
    served.client.set_registered_model_tag("supcam", "supcam.event.000001", text)
    kept = ("number", "action", "version", "from", "reason", "when", "who")
    assert [[event[key] for key in kept] for event in served.events()] == [
        [event[key] for key in kept] for event in whole
    ]
    served.client.delete_model_version_tag("supcam", "1", "supcam.decision.000001")
    assert [event["action"] for event in served.events()] == ["damaged", "promoted"]
    assert list(history.history(served)["action"]) == ["promoted", "damaged"]
    assert history.rollback(served)["version"] == 1
    assert history.models(served)["aliases"].tolist() == ["candidate, previous", "production"]


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"to": 1}', '{"to": "1", "from": 2, "event": {}}', '{"to": 1, "from": 2, "event": {"number": 3}}'],
)
def test_a_damaged_announcement_is_forgotten(served: Registry, text: str) -> None:
    served.client.set_registered_model_tag("supcam", "supcam.pending", text)
    assert served.aliases()["production"] == 2
    with served.lock():
        pass
    assert "supcam.pending" not in served.client.get_registered_model("supcam").tags


def test_a_lost_hash_is_named_and_the_model_registered_again(
    served: Registry, make_package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.client.delete_model_version_tag("supcam", "2", Tag.CONTENT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    with pytest.raises(PackageError, match=r"or its tag supcam.content was changed. Run: dvc repro"):
        load_production()
    assert again(served, make_package, 2, tmp_path) == 3
    assert go(served.uri, force="its tag was lost").outcome == "promoted"
    assert load_production().origin == "supcam version 3"


def holder(registry: Registry, **changes: object) -> None:
    """Change who holds the lock, by hand."""
    tags = registry.client.get_registered_model("supcam.promotion-lock").tags
    text = json.dumps({**json.loads(tags["supcam.holder"]), **changes})
    registry.client.set_registered_model_tag("supcam.promotion-lock", "supcam.holder", text)


def test_the_lock_of_a_living_process_is_never_taken(served: Registry) -> None:
    """It was after 15 minutes."""
    with served.lock():
        for since in (time.time() - 100 * LOCK_SECONDS, time.time() + 100 * LOCK_SECONDS):
            holder(served, since=since)
            with pytest.raises(Busy, match="another promotion"):
                go(served.uri, candidate=1)


@pytest.mark.parametrize("since", [-100.0, 0.0, 100.0])
def test_the_lock_of_a_dead_process_is_taken_whatever_its_date(served: Registry, since: float) -> None:
    """One dated in the future was held for ever."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with served.lock():
        holder(served, pid=gone.pid, since=time.time() + since * LOCK_SECONDS, token="gone")
        with Registry(served.uri).lock():
            pass


def test_the_number_of_a_dead_process_may_be_used_again(served: Registry) -> None:
    with served.lock():
        holder(served, started="1", token="gone")
        with Registry(served.uri).lock():
            pass


@pytest.mark.parametrize("text", ["", "{", "{}", '{"pid": 1, "host": "here"}', '{"token": 1}'])
def test_a_lock_that_names_nobody_is_taken(served: Registry, text: str) -> None:
    """Nobody could promote any more."""
    served.client.create_registered_model("supcam.promotion-lock", tags={"supcam.holder": text})
    assert go(served.uri, candidate=1).outcome == "promoted"
    assert [model.name for model in served.client.search_registered_models()] == ["supcam"]


def test_a_holder_on_another_machine_is_watched_before_it_is_taken_for_dead(
    served: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may be another; a living one counts up in its lock."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    elsewhere = {"host": "elsewhere", "machine": 1, "pid": 1}
    with served.lock():  # it beats, and so is alive
        monkeypatch.setattr(lock.socket, "gethostname", lambda: "another")
        holder(served, since=time.time() - 2 * LOCK_SECONDS)
        with pytest.raises(Busy):
            go(served.uri, candidate=1)
    for since, free in ((0.0, False), (2 * LOCK_SECONDS, True), (-2 * LOCK_SECONDS, True)):
        text = {"token": "x", "started": "1", "who": "x", "since": time.time() + since, **elsewhere}
        served.client.create_registered_model("supcam.promotion-lock", tags={"supcam.holder": json.dumps(text)})
        if free:
            with served.lock():
                pass
        else:
            with pytest.raises(Busy, match="process 1 of x on elsewhere"):
                go(served.uri, candidate=1)
            served.client.delete_registered_model("supcam.promotion-lock")


def test_who_lost_the_lock_moves_nothing(served: Registry) -> None:
    with served.lock():
        holder(served, token="another")
        with pytest.raises(Busy, match="Nothing was moved"):
            served.move_production(1, {"action": "rolled back", "version": 1, "from": 2, "reason": "late"})
    assert served.aliases()["production"] == 2
    served.client.delete_registered_model("supcam.promotion-lock")
