"""The classifier as it is packaged: inversion, averaged views, calibration, and its ONNX form."""

from pathlib import Path

import numpy as np
import pytest
import torch

from supcam.errors import SettingError
from supcam.models.classifier import ClusterClassifier, InferenceModel, turned_views
from supcam.models.encoders import build_encoder
from supcam.settings import ModelSettings
from supcam.views import to_input


@pytest.fixture(scope="module")
def classifier() -> ClusterClassifier:
    torch.manual_seed(0)
    model = ClusterClassifier(build_encoder(ModelSettings(encoder="resnet10")))
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, 1, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_one_view_is_the_softmax_of_the_inverted_crop(classifier: ClusterClassifier, crops: torch.Tensor) -> None:
    with torch.no_grad():
        expected = classifier((255 - crops.float()) / 255).softmax(dim=1)
        torch.testing.assert_close(InferenceModel(classifier)(crops), expected)


def test_the_eight_views_are_the_symmetries_of_the_square(crops: torch.Tensor) -> None:
    views = turned_views(crops, 8).reshape(8, 5, 1, 32, 32)
    expected = [torch.rot90(start, turns, (2, 3)) for start in (crops, crops.flip(3)) for turns in range(4)]
    assert {view.numpy().tobytes() for view in views} == {view.numpy().tobytes() for view in expected}


@pytest.mark.parametrize("views", [2, 4, 8])
def test_views_are_averaged_as_probabilities(classifier: ClusterClassifier, crops: torch.Tensor, views: int) -> None:
    with torch.no_grad():
        each = classifier(turned_views(to_input(crops), views)).softmax(dim=1).reshape(views, 5, 4)
        torch.testing.assert_close(InferenceModel(classifier, views=views)(crops), each.mean(dim=0))


def test_eight_views_do_not_see_a_turn(classifier: ClusterClassifier, crops: torch.Tensor) -> None:
    model = InferenceModel(classifier, views=8)
    with torch.no_grad():
        torch.testing.assert_close(model(crops.rot90(1, (2, 3))), model(crops), rtol=1e-4, atol=1e-5)


def test_temperature_divides_the_logarithm(classifier: ClusterClassifier, crops: torch.Tensor) -> None:
    with torch.no_grad():
        cold, warm = InferenceModel(classifier)(crops), InferenceModel(classifier, temperature=2.0)(crops)
    torch.testing.assert_close((cold.log() / 2.0).softmax(dim=1), warm)


@pytest.mark.parametrize("wrong", [{"views": 3}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_a_value_out_of_range_is_refused(classifier: ClusterClassifier, wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong)).removeprefix("test_")):
        InferenceModel(classifier, **wrong)  # type: ignore[arg-type]


def test_the_onnx_form_takes_any_batch_and_agrees(
    classifier: ClusterClassifier, crops: torch.Tensor, tmp_path: Path
) -> None:
    import onnxruntime

    model = InferenceModel(classifier, views=8, temperature=1.3).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (crops,), path, dynamo=True, external_data=False, verbose=False,
        input_names=["crops"], output_names=["probabilities"], dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        (got,) = session.run(None, {"crops": crops[:count].numpy()})
        np.testing.assert_allclose(got, model(crops[:count]).detach().numpy(), atol=1e-5)
