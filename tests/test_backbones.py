"""Backbones: right shapes, right gradients in the precision of `auto`, real weights."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.video import r3d_18

from safe.errors import ConfigError, ModelError
from safe.models.backbones import BACKBONES, build_backbone, fold_norms
from safe.training.device import pick_device, pick_precision


@pytest.mark.parametrize("name", BACKBONES)
def test_any_window_becomes_one_vector(name):
    backbone = build_backbone(name).eval()
    for shape in ((1, 3, 4, 64, 64), (2, 3, 1, 48, 80), (1, 3, 16, 32, 32)):
        with torch.inference_mode():
            assert backbone(torch.randn(shape)).shape == (shape[0], backbone.features)


def gradients(backbone: torch.nn.Module, clips: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """All weight gradients in one vector, float64; the probe weighs each feature differently."""
    backbone.zero_grad()
    device = clips.device
    with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
        features = backbone(clips)
    probe = torch.linspace(-1, 1, features.shape[1], dtype=features.dtype, device=device)
    (features * probe).sum().backward()
    return torch.cat([p.grad.double().flatten() for p in backbone.parameters()]).cpu()


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_equal_float64_in_the_precision_that_auto_chooses(name):
    # A GPU that is here is tested too; r3d_18 on 4 frames has depth 2 inside, where bf16 fails on
    # CPUs.
    device = pick_device("auto")
    precision = pick_precision("auto", device)
    torch.manual_seed(0)
    backbone = build_backbone(
        name
    ).eval()  # eval: batch statistics of two clips would amplify noise
    clips = torch.randn(2, 3, 4, 32, 32)
    exact = gradients(backbone.double(), clips.double(), torch.float64)
    backbone = backbone.float().to(device).to(memory_format=torch.channels_last_3d)
    got = gradients(backbone, clips.to(device), precision)
    error = (got - exact).norm() / exact.norm()
    # Of bf16 the layers magnify the rounding: 0.12 on an H100. A wrong kernel makes it 1 or more.
    assert error < (0.3 if precision == torch.bfloat16 else 1e-4)


def test_bf16_is_never_chosen_and_refused_on_a_cpu(monkeypatch):
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) == torch.float32
    with pytest.raises(ConfigError, match="bf16: gradients of conv3d"):
        pick_precision("bf16", cpu)
    monkeypatch.setattr("safe.training.device.cpu_has_bf16", lambda: False)
    with pytest.raises(ConfigError, match=r"eval\.precision = bf16: this CPU has no bf16"):
        pick_precision("bf16", cpu, trains=False)
    monkeypatch.setattr("safe.training.device.cpu_has_bf16", lambda: True)
    assert pick_precision("bf16", cpu, trains=False) == torch.bfloat16


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        with pytest.raises(ConfigError, match="this machine has"):
            pick_device("cuda:999")
    else:
        with pytest.raises(ConfigError, match="no usable GPU"):
            pick_device("cuda")


def test_r3d_18_with_a_weights_file_is_torchvisions(tmp_path):
    torch.manual_seed(1)
    theirs = r3d_18(weights=None).eval()
    save_file(theirs.state_dict(), tmp_path / "r3d_18.safetensors")
    ours = build_backbone("r3d_18", str(tmp_path / "r3d_18.safetensors")).eval()
    for depth in (1, 2, 3, 5, 16):
        clips = torch.randn(1, 3, depth, 48, 48)
        with torch.inference_mode():
            assert torch.allclose(theirs.fc(ours(clips)), theirs(clips), atol=1e-6), depth


def test_no_way_of_convolving_changes_a_gradient(monkeypatch):
    torch.manual_seed(1)
    theirs = r3d_18(weights=None).double().train()
    theirs.fc = torch.nn.Identity()
    start = copy.deepcopy(theirs.state_dict())
    network = build_backbone("r3d_18").double().to(memory_format=torch.channels_last_3d).train()
    mine = network.net
    clips = torch.randn(2, 3, 4, 24, 24, dtype=torch.float64)
    upstream = torch.randn(2, 512, dtype=torch.float64)
    theirs(clips).backward(upstream)
    for way in ("direct", "gpu"):  # a GPU's operations, on a CPU
        monkeypatch.setattr("safe.models.r3d.is_gpu", lambda x, way=way: way == "gpu")
        mine.load_state_dict(start)
        network.zero_grad()
        network(clips).backward(upstream)
        for (name, p), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p.grad, other.grad, atol=1e-9, rtol=1e-9), (way, name)
        for (name, buffer), other in zip(mine.named_buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(buffer, other, msg=f"{way}: {name}")
        # where the last layers look the depth is 1
        assert not mine.layer4[1].conv2[0].weight.grad[:, :, ::2].any()
        assert mine.layer4[1].conv2[0].weight.grad.abs().max() > 1e-6


def test_weights_that_are_missing_or_wrong_say_where_to_get_them(tmp_path):
    with pytest.raises(ModelError, match="not found; get torchvision's R3D_18_Weights"):
        build_backbone("r3d_18", str(tmp_path / "none.safetensors"))
    pickled = tmp_path / "r3d_18.pth"
    torch.save({}, pickled)
    with pytest.raises(ModelError, match="not a safetensors file"):
        build_backbone("r3d_18", str(pickled))
    save_file({"stem.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="does not hold r3d_18"):
        build_backbone("r3d_18", str(tmp_path / "other.safetensors"))
    with pytest.raises(ModelError, match="only r3d_18"):
        build_backbone("small", str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("name", BACKBONES)
def test_folded_norms_change_no_value(name):
    torch.manual_seed(0)
    backbone = build_backbone(name).double().to(memory_format=torch.channels_last_3d)
    norms = [module for module in backbone.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    with torch.no_grad():
        for norm in norms:  # far from its start, where it does nothing
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    folded = fold_norms(backbone.train())
    clips = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(folded(clips), backbone.eval()(clips), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert (
        sum(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
        == 0
        < len(norms)
    )
