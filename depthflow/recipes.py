"""Named configurations. Each docstring says what it is for, how to run it and what was seen."""

from depthflow.config import Recipe


def smoke() -> Recipe:
    """Seconds: does the chain hold? A tiny encoder at 64 x 64, no downloads. The demo's recipe, with more epochs.

    python pipelines/train.py smoke --samples STORE --storage DIR
    """
    return Recipe(
        name="smoke",
        encoder="tiny",
        encoder_weights="none",
        decoder_filters=(64, 48, 32, 24, 16),
        decoder_norm="group",
        height=64,
        width=64,
        loss="l1",
        horizontal_flip=True,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        weight_decay=1e-4,
        clip_norm=1.0,
        epochs=2,
        global_batch_size=16,
    )


def tutorial() -> Recipe:
    """The notebook tutorial's hyper-parameters (256 x 256, batch 32, 60 epochs, Adam 1e-3, MSE + 0.1 Huber), masked.

    python pipelines/train.py tutorial --samples STORE --storage DIR

    Two deliberate differences: the network normalises its input as the ImageNet weights expect (the tutorial feeds
    [0, 1]), and invalid pixels do not enter the loss.
    """
    return Recipe(name="tutorial", encoder="resnet50", encoder_weights="imagenet", clip_depth="tutorial")


def diode() -> Recipe:
    """Full DIODE on several GPUs: the tutorial's network with L1 on log-depth, AdamW, cosine and flips.

    python pipelines/train.py diode --samples s3://BUCKET/store --storage s3://BUCKET/runs --num-workers 8

    Not yet run at full size: no figure is claimed.
    """
    return Recipe(
        name="diode",
        encoder="resnet50",
        encoder_weights="imagenet",
        decoder_filters=(512, 256, 128, 64, 32),
        decoder_norm="batch",
        loss="l1",
        horizontal_flip=True,
        optimizer="adamw",
        learning_rate=3e-4,
        schedule="cosine",
        weight_decay=1e-2,
        clip_norm=1.0,
        epochs=30,
        global_batch_size=64,
    )


RECIPES = {recipe.__name__: recipe for recipe in (smoke, tutorial, diode)}
