"""Every check of every configuration fires and names the received value; values at the limit pass."""

import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from depthflow.cluster.config import DoctorConfig, SubmitConfig
from depthflow.datasets.config import DownloadConfig
from depthflow.evaluation.config import EvaluateConfig, PromoteConfig
from depthflow.inference.config import ExportConfig, PredictConfig
from depthflow.recipe import Recipe
from depthflow.store.write.config import PreprocessConfig
from depthflow.synthetic.config import SynthesizeConfig
from depthflow.training.config import TrainJob
from tests.configurations import configurations

CONFIGURATIONS = configurations()
DemoConfig = CONFIGURATIONS["depthflow.demo.config.DemoConfig"]

SOUND = {
    SynthesizeConfig: SynthesizeConfig(out="o"),
    DownloadConfig: DownloadConfig(split="val", out="o"),
    PreprocessConfig: PreprocessConfig(source=("s",), out="o"),
    Recipe: Recipe(name="n", encoder="tiny", weights="none"),
    TrainJob: TrainJob(samples="s", storage="t"),
    EvaluateConfig: EvaluateConfig(model="m", samples="s"),
    PromoteConfig: PromoteConfig(samples="s"),
    ExportConfig: ExportConfig(model="m", format=("onnx",), out="o"),
    PredictConfig: PredictConfig(model="m", images=("i",), out="o"),
    DemoConfig: DemoConfig(),
    SubmitConfig: SubmitConfig(command=("train",)),
    DoctorConfig: DoctorConfig(),
}

# Configuration, changes, the flag that the message begins with, the received value.
TRANSFORMER = {"encoder": "dinov2_tiny", "height": 56, "width": 56}
STEREO, VIDEO = (("stereo", 1.0),), (("video", 1.0),)
REJECTED = [
    (SynthesizeConfig, {"scans": 1}, "--scans", "1"),
    (SynthesizeConfig, {"samples_per_scan": 0}, "--samples-per-scan", "0"),
    (SynthesizeConfig, {"out": "s3://b/x"}, "--out", "s3://b/x"),
    (SynthesizeConfig, {"baseline_m": 0.0}, "--baseline-m", "0.0"),
    (SynthesizeConfig, {"baseline_m": 1.5}, "--baseline-m", "1.5"),
    (SynthesizeConfig, {"kind": "video", "moving_objects": -1}, "--moving-objects", "-1"),
    (SynthesizeConfig, {"moving_objects": 1}, "--moving-objects needs --kind video", "1"),
    (DownloadConfig, {"connections": 0}, "--connections", "0"),
    (DownloadConfig, {"base_url": "diode.org/x"}, "--base-url", "diode.org/x"),
    (DownloadConfig, {"base_url": "ftp://h"}, "--base-url", "ftp://h"),
    (DownloadConfig, {"md5": "12ab"}, "--md5", "12ab"),
    (DownloadConfig, {"out": "s3://b/x"}, "--out", "s3://b/x"),
    (PreprocessConfig, {"source": ()}, "--source", "none"),
    (PreprocessConfig, {"height": 0}, "--height", "0"),
    (PreprocessConfig, {"width": -1}, "--width", "-1"),
    (PreprocessConfig, {"splits": ()}, "--splits", "none"),
    (PreprocessConfig, {"val_fraction": 0.0}, "--val-fraction", "0.0"),
    (PreprocessConfig, {"val_fraction": 1.0}, "--val-fraction", "1.0"),
    (PreprocessConfig, {"val_fraction": math.nan}, "--val-fraction", "nan"),
    (PreprocessConfig, {"gap_s": -1.0}, "--gap-s", "-1.0"),
    (PreprocessConfig, {"gap_s": math.inf}, "--gap-s", "inf"),
    (PreprocessConfig, {"split_file": ("val.txt",)}, "--split-file", "val.txt"),
    (PreprocessConfig, {"split_file": ("val=",)}, "--split-file", "val="),
    (PreprocessConfig, {"split_file": ("dev=val.txt",)}, "--split-file", "dev=val.txt"),
    (
        PreprocessConfig,
        {"split_file": ("val=val.txt",), "resplit": "time"},
        "--split-file and --resplit exclude each other",
        "--resplit time",
    ),
    (PreprocessConfig, {"shard_mib": 0}, "--shard-mib", "0"),
    (PreprocessConfig, {"kind": "films"}, "--kind", "films"),
    (PreprocessConfig, {"frame_step": 0}, "--frame-step", "0"),
    (PreprocessConfig, {"min_motion_m": -0.1}, "--min-motion-m", "-0.1"),
    (PreprocessConfig, {"min_motion_m": math.nan}, "--min-motion-m", "nan"),
    (PreprocessConfig, {"depth_from": "stereo", "kind": "video"}, "--depth-from stereo needs", "--kind video"),
    (PreprocessConfig, {"edge_relative_jump": 0.0}, "--edge-relative-jump", "0.0"),
    (PreprocessConfig, {"edge_radius_px": -1}, "--edge-radius-px", "-1"),
    (Recipe, {"height": 0}, "--height", "0"),
    (Recipe, {"height": -32}, "--height", "-32"),
    (Recipe, {"height": 100}, "--height", "100"),
    (Recipe, {"width": 33}, "--width", "33"),
    (Recipe, {"decoder_filters": (8, 8, 8, 8, 0)}, "--decoder-filters", "8 8 8 8 0"),
    (Recipe, {"decoder_filters": (8, 8)}, "--decoder-filters", "8 8"),
    (Recipe, {"decoder_filters": (8,) * 6}, "--decoder-filters", "8 8 8 8 8 8"),
    (Recipe, {"bottleneck_filters": -1}, "--bottleneck-filters", "-1"),
    (Recipe, {"supervised_scales": 0}, "--supervised-scales", "0"),
    (Recipe, {"supervised_scales": 4, "decoder_filters": (8, 8, 8)}, "--supervised-scales", "4"),
    (Recipe, {"accumulation_steps": 0}, "--accumulation-steps", "0"),
    (Recipe, {"encoder": "resnet"}, "--encoder takes: resnet50, ", "resnet"),
    (Recipe, {"loss": (("l1", 1.0), ("l3", 1.0))}, "--loss takes: tutorial, l1, ", "l3"),
    (Recipe, {"augment": (("fog", 0.5),)}, "--augment takes: gamma", "fog"),
    (Recipe, {"augment": (("gamma", 0.0),)}, "--augment", "gamma 0"),
    (Recipe, {"augment": (("gamma", 1.1),)}, "--augment", "gamma 1.1"),
    (Recipe, {"augment": (("gamma", math.nan),)}, "--augment", "gamma nan"),
    (Recipe, {"augment": (("gamma", 0.1), ("gamma", 0.2))}, "--augment", "gamma 0.1 gamma 0.2"),
    *(
        (Recipe, {"dataset_weights": (("tum", weight),)}, "--dataset-weights", f"tum {weight:g}")
        for weight in (-1.0, math.nan, math.inf)
    ),
    (Recipe, {"dataset_weights": (("tum", 1.0), ("tum", 2.0))}, "--dataset-weights", "tum 1 tum 2"),
    (Recipe, {"loss": ()}, "--loss", "none"),
    (Recipe, {"loss": (("l1", 0.0),)}, "--loss", "l1 0"),
    (Recipe, {"loss": (("l1", math.inf),)}, "--loss", "l1 inf"),
    (Recipe, {"loss": (("l1", math.nan),)}, "--loss", "l1 nan"),
    (Recipe, {"loss": (("l1", 1.0), ("l1", 2.0))}, "--loss", "l1 1 l1 2"),
    (Recipe, {"max_zoom": 0.9}, "--max-zoom", "0.9"),
    (Recipe, {"max_zoom": 4.1}, "--max-zoom", "4.1"),
    (Recipe, {"colour_jitter": 1.0}, "--colour-jitter", "1.0"),
    (Recipe, {"colour_jitter": -0.1}, "--colour-jitter", "-0.1"),
    (Recipe, {"blur": 1.1}, "--blur", "1.1"),
    (Recipe, {"blur": math.nan}, "--blur", "nan"),
    (Recipe, {"encoder_rate": 0.0}, "--encoder-rate", "0.0"),
    (Recipe, {"encoder_rate": 1.5}, "--encoder-rate", "1.5"),
    (Recipe, {"frozen_encoder_epochs": -1}, "--frozen-encoder-epochs", "-1"),
    (Recipe, {"frozen_encoder_epochs": 4, "epochs": 3}, "--frozen-encoder-epochs", "4"),
    (Recipe, {"layer_decay": 0.0}, "--layer-decay", "0.0"),
    (Recipe, {"layer_decay": 1.1}, "--layer-decay", "1.1"),
    (Recipe, {"layer_decay": 0.9}, "--layer-decay", "0.9"),
    (Recipe, {"remat": True}, "--remat", "True"),
    (Recipe, {"lora_rank": 4}, "--lora-rank", "4"),
    (Recipe, {"lora_rank": -1}, "--lora-rank", "-1"),
    (Recipe, {**TRANSFORMER, "lora_rank": 4, "frozen_encoder_epochs": "all"}, "--lora-rank must be 0 if", "4"),
    (Recipe, {"ema_momentum": 0.0}, "--ema-momentum", "0.0"),
    (Recipe, {"ema_momentum": 1.0}, "--ema-momentum", "1.0"),
    (Recipe, {"batch_norm": "frozen"}, "--batch-norm", "--weights none"),
    (Recipe, {"camera": "canonical", "assume_fov_deg": 180.0}, "--assume-fov-deg", "180.0"),
    (Recipe, {"assume_fov_deg": 60.0}, "--assume-fov-deg", "60.0"),
    (Recipe, {"camera": "canonical", "zoom_depth": "keep"}, "--zoom-depth", "keep"),
    (Recipe, {"xla": True, "decoder_norm": "batch"}, "--xla", "--batch-norm synchronized --decoder-norm batch"),
    (Recipe, {"xla": True, "encoder": "resnet50"}, "--xla", "--batch-norm synchronized --decoder-norm none"),
    (
        Recipe,
        {"xla": True, "encoder": "resnet50", "weights": "w", "batch_norm": "frozen", "decoder_norm": "batch"},
        "--xla",
        "--batch-norm frozen --decoder-norm batch",
    ),
    (Recipe, {"objective": ()}, "--objective", "none"),
    (Recipe, {"objective": (("motion", 1.0),)}, "--objective", "motion"),
    (Recipe, {"objective": (("supervised", 0.0),)}, "--objective", "supervised 0"),
    (Recipe, {"objective": (*VIDEO, *VIDEO)}, "--objective", "video 1 video 1"),
    (Recipe, {"objective": (*STEREO, *VIDEO)}, "--objective takes stereo or video", "stereo 1 video 1"),
    (Recipe, {"poses": "given"}, "--poses", "given"),
    (Recipe, {"objective": STEREO, "poses": "given"}, "--poses", "given"),
    (Recipe, {"objective": STEREO, "auto_mask": False}, "--auto-mask", "False"),
    (Recipe, {"objective": STEREO, "min_reprojection": False}, "--min-reprojection", "False"),
    (Recipe, {"photometric_scale": "own"}, "--photometric-scale", "own"),
    (Recipe, {"objective": VIDEO, "smoothness": -1.0}, "--smoothness", "-1.0"),
    (Recipe, {"objective": VIDEO, "scale_from": "baseline"}, "--scale-from needs --objective stereo", "baseline"),
    (Recipe, {"objective": STEREO, "scale_from": "median"}, "--scale-from", "median"),
    (Recipe, {"objective": VIDEO, "poses": "given", "scale_from": "velocity"}, "--scale-from", "velocity"),
    (Recipe, {"objective": (*VIDEO, ("supervised", 1.0)), "scale_from": "median"}, "--scale-from", "median"),
    (Recipe, {"objective": VIDEO, "clip_depth": "tutorial"}, "--clip-depth", "tutorial"),
    (Recipe, {"epochs": 0}, "--epochs", "0"),
    (Recipe, {"global_batch_size": 0}, "--global-batch-size", "0"),
    (Recipe, {"learning_rate": 0.0}, "--learning-rate", "0.0"),
    (Recipe, {"learning_rate": math.nan}, "--learning-rate", "nan"),
    (Recipe, {"weight_decay": -0.1, "optimizer": "sgd"}, "--weight-decay", "-0.1"),
    (Recipe, {"weight_decay": 0.1, "optimizer": "adam"}, "--weight-decay", "0.1 with adam"),
    (Recipe, {"clip_norm": 0.0}, "--clip-norm", "0.0"),
    (TrainJob, {"num_workers": 0}, "--num-workers", "0"),
    *((TrainJob, {"model_name": name}, "--model-name", name) for name in ("a/b", "a:b", "a@b", "", " ", "..", ".")),
    (TrainJob, {"keep_checkpoints": 0}, "--keep-checkpoints", "0"),
    (TrainJob, {"max_failures": -1}, "--max-failures", "-1"),
    (TrainJob, {"checkpoint_every_steps": 0}, "--checkpoint-every-steps", "0"),
    (TrainJob, {"step_timeout_s": 0.0}, "--step-timeout-s", "0.0"),
    (TrainJob, {"drain_poll_s": 0.0}, "--drain-poll-s", "0.0"),
    (TrainJob, {"drain_poll_s": math.nan}, "--drain-poll-s", "nan"),
    (TrainJob, {"mlflow_wait_s": -1.0}, "--mlflow-wait-s", "-1.0"),
    (TrainJob, {"cache_gib": -0.5}, "--cache-gib", "-0.5"),
    (TrainJob, {"cache_gib": math.inf}, "--cache-gib", "inf"),
    (TrainJob, {"cache_gib": math.nan}, "--cache-gib", "nan"),
    (TrainJob, {"cache_dir": "s3://b/cache"}, "--cache-dir", "s3://b/cache"),
    (EvaluateConfig, {"num_workers": 0}, "--num-workers", "0"),
    (PromoteConfig, {"model_name": "a/b"}, "--model-name", "a/b"),
    (PromoteConfig, {"force": True}, "--force", "none"),
    (PromoteConfig, {"force": True, "reason": "r", "rollback": True}, "--force, --rollback", "--force --rollback"),
    (PromoteConfig, {"history": True, "rollback": True}, "--force, --rollback", "--rollback --history"),
    (PromoteConfig, {"confidence": 1.0}, "--confidence", "1.0"),
    (PromoteConfig, {"max_latency_ratio": 0.0}, "--max-latency-ratio", "0.0"),
    (ExportConfig, {"format": ()}, "--format", "none"),
    (ExportConfig, {"tolerance": 0.0}, "--tolerance", "0.0"),
    (ExportConfig, {"out": "s3://b/x"}, "--out", "s3://b/x"),
    (ExportConfig, {"quantize": ("int8",), "samples": "s"}, "--quantize needs --format litert", "int8"),
    (ExportConfig, {"format": ("litert",), "quantize": ("int8",)}, "--quantize needs --samples STORE", "int8"),
    (PredictConfig, {"tile_px": 63}, "--tile-px", "63"),
    (PredictConfig, {"files": ()}, "--files", "none"),
    (PredictConfig, {"point_cloud": True, "fov_deg": 180.0}, "--fov-deg", "180.0"),
    (PredictConfig, {"point_cloud": True, "fx": -1.0, "fy": 1.0}, "--fx", "-1.0"),
    (PredictConfig, {"fx": 500.0}, "--fx and --fy go together", "--fx 500"),
    (PredictConfig, {"max_depth_m": 0.0}, "--max-depth-m", "0.0"),
    (PromoteConfig, {"samples": None}, "--samples", "none"),
    (PromoteConfig, {"samples": ""}, "--samples", "none"),
    (PromoteConfig, {"margin": -0.01}, "--margin", "-0.01"),
    (PromoteConfig, {"tolerance": -0.01}, "--tolerance", "-0.01"),
    (PredictConfig, {"images": ()}, "--images", "none"),
    (DemoConfig, {"out": "s3://b/x"}, "--out", "s3://b/x"),
    (SubmitConfig, {"env": ("AWS_PROFILE=p",)}, "--env", "AWS_PROFILE=p"),
    (SubmitConfig, {"reconnect_s": -1.0}, "--reconnect-s", "-1.0"),
    (DoctorConfig, {"checks": ()}, "--checks", "none"),
    (DoctorConfig, {"num_workers": 0}, "--num-workers", "0"),
    (DoctorConfig, {"timeout_s": 0.0}, "--timeout-s", "0.0"),
]

ACCEPTED = [
    (TrainJob, {"storage": "s3://b/runs"}),
    (TrainJob, {"model_name": """it's "my" model."""}),
    (SynthesizeConfig, {"scans": 2, "samples_per_scan": 1}),
    (DownloadConfig, {"connections": 1, "base_url": "https://h", "md5": "0123456789abcdefABCDEF0123456789"}),
    (PreprocessConfig, {"height": 1, "width": 1, "shard_mib": 1, "edge_radius_px": 0, "val_fraction": 0.999}),
    (PreprocessConfig, {"splits": ("val",), "resplit": "val"}),
    (PreprocessConfig, {"resplit": "time", "gap_s": 0.0}),
    (PreprocessConfig, {"split_file": ("train=s3://b/a=b.txt", "val=v", "test=t")}),
    (Recipe, {"height": 32, "width": 1024, "epochs": 1, "global_batch_size": 1, "clip_norm": 1e-6}),
    (Recipe, {"weight_decay": 0.1, "optimizer": "sgd"}),
    (Recipe, {"weight_decay": 0.1, "optimizer": "adamw"}),
    (Recipe, {"weight_decay": 0.0, "optimizer": "adam", "decoder_filters": (1, 1, 1, 1, 1)}),
    (Recipe, {"decoder_filters": (1, 1, 1), "supervised_scales": 3, "bottleneck_filters": 0, "accumulation_steps": 1}),
    (Recipe, {"loss": (("l1", 1e-6), ("silog", 10.0)), "max_zoom": 4.0, "colour_jitter": 0.99, "blur": 1.0}),
    (Recipe, {"augment": (("gamma", 1.0),)}),
    (Recipe, {"max_zoom": 1.0, "colour_jitter": 0.0, "blur": 0.0, "encoder_rate": 1e-6, "ema_momentum": 1e-6}),
    (Recipe, {"frozen_encoder_epochs": "all"}),
    (Recipe, {"epochs": 3, "frozen_encoder_epochs": 3, "encoder_rate": 1.0, "ema_momentum": 0.9999}),
    (Recipe, {"encoder": "resnet50", "weights": "imagenet", "batch_norm": "frozen", "xla": True}),
    (Recipe, {"xla": True, "decoder_norm": "group"}),
    (Recipe, {"camera": "canonical", "assume_fov_deg": 60.0}),
    (Recipe, {"encoder": "convnext_tiny", "xla": True}),
    (Recipe, {"objective": (("supervised", 1e-6), ("video", 0.5)), "auto_mask": False, "min_reprojection": False}),
    (Recipe, {"objective": STEREO, "scale_from": "baseline", "photometric_scale": "own", "smoothness": 0.0}),
    (Recipe, {"objective": VIDEO, "poses": "given"}),
    (Recipe, {"objective": VIDEO, "scale_from": "velocity"}),
    (TrainJob, {"checkpoint_every_steps": 1, "step_timeout_s": 0.1, "drain_poll_s": 0.1, "mlflow_wait_s": 0.0}),
    (TrainJob, {"num_workers": 1, "keep_checkpoints": 1, "max_failures": 0, "cache_gib": 0.0, "cache_dir": "c"}),
    (EvaluateConfig, {"num_workers": 1}),
    (PromoteConfig, {"samples": None, "rollback": True}),
    (PromoteConfig, {"force": True, "reason": "r", "margin": 0.0, "tolerance": 0.0}),
]

# Counts and sizes: the message names the flag.
COUNTS = [
    (SynthesizeConfig, {"height": 0}),
    (SynthesizeConfig, {"width": -4}),
    (Recipe, {"seed": -1}),
    (PromoteConfig, {"num_workers": 0}),
    (PredictConfig, {"num_workers": -1}),
    (DemoConfig, {"num_workers": 0}),
    (DemoConfig, {"epochs": 0}),
    (TrainJob, {"num_cpus": 0}),
]


@pytest.mark.parametrize(("config", "changes", "flag", "received"), REJECTED)
def test_a_check_names_the_flag_and_the_received_value(config, changes, flag, received):
    with pytest.raises(ValueError, match=r"^--") as caught:
        replace(SOUND[config], **changes)
    message = str(caught.value)
    assert message.startswith(flag)
    assert message.endswith(f"Received: {received}")


@pytest.mark.parametrize(("config", "changes"), ACCEPTED)
def test_values_at_the_limit_pass(config, changes):
    assert {name: getattr(replace(SOUND[config], **changes), name) for name in changes} == changes


@pytest.mark.parametrize(("config", "changes"), COUNTS)
def test_every_command_checks_its_counts(config, changes):
    with pytest.raises(ValueError, match="Received: "):
        replace(SOUND[config], **changes)


def test_every_configuration_is_in_this_file():
    found = set(CONFIGURATIONS.values())
    bases = {base for item in found for base in item.__bases__}
    assert found - bases == set(SOUND)


@pytest.mark.parametrize("config", SOUND)
def test_frozen(config):
    sound = SOUND[config]
    name = fields(sound)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(sound, name, getattr(sound, name))
    assert hash(sound) == hash(replace(sound))


@pytest.mark.parametrize("config", SOUND)
def test_keyword_only(config):
    assert all(field.kw_only for field in fields(config))


def test_a_blank_recipe_is_the_same_network_without_weights_to_load():
    """Also for a recipe that is invalid without weights."""
    recipe = replace(
        SOUND[Recipe],
        encoder="resnet50",
        weights="imagenet",
        batch_norm="frozen",
        xla=True,
        decoder_norm="group",
    )
    blank = recipe.blank()
    assert blank.weights == "none"
    network = {"encoder", "input_scaling", "bottleneck_filters", "decoder_filters", "decoder_norm", "height", "width"}
    network |= {"decoder_upsampling", "supervised_scales", "dtype"}
    assert {name: getattr(blank, name) for name in network} == {name: getattr(recipe, name) for name in network}
