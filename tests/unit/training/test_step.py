"""The step: parts add up to the whole, all pixels have equal weight, and only what should change does.

Everything runs on one worker, with a network of two convolutions. tests/long/test_equality.py compares two workers
with one.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.augmentation import NEUTRAL, Column, draw
from depthflow.models.network import build_network
from depthflow.models.views import Views
from depthflow.recipes import smoke
from depthflow.store.schema import KINDS
from depthflow.training.optimizer import build_optimizer
from depthflow.training.step import StepInput, build_step

SIZE = 16
RATE = 0.125
PLAIN = replace(
    smoke(),
    loss=(("l1", 1.0),),
    horizontal_flip=False,
    max_zoom=1.0,
    colour_jitter=0.0,
    blur=0.0,
    optimizer="sgd",
    learning_rate=RATE,
    schedule="constant",
    weight_decay=0.0,
    clip_norm=None,
    accumulation_steps=1,
    supervised_scales=1,
)


class Run:
    """A network, its optimizer and its step."""

    def __init__(self, recipe, group, small_network, *, frozen=(), stored_size=None):
        self.model = small_network(
            dtype=recipe.dtype, size=SIZE, scales=recipe.supervised_scales, poses=recipe.learns_poses
        )
        self.optimizer = build_optimizer(recipe, total_steps=10, steps_per_epoch=5, encoder=[])
        self.optimizer.build(self.model.trainable_variables)
        frozen_variables = [variable for variable in self.model.trainable_variables if variable.path.startswith(frozen)]
        self._step = build_step(
            model=self.model,
            optimizer=self.optimizer,
            recipe=recipe,
            group=group,
            stored_size=stored_size,
            frozen=frozen_variables if frozen else (),
        )

    def step(self, batch, signals=(0.0,), views=()):
        """Returns the loss."""
        views = tf.nest.map_structure(tf.constant, views)
        result = self._step(StepInput(*map(tf.constant, batch), signals=tf.constant(signals, tf.float32), views=views))
        self.signals, self.gradient_norm = result.signals.numpy(), float(result.gradient_norm)
        return result.loss.numpy()

    def weights(self):
        return {variable.path: np.array(variable) for variable in self.model.trainable_variables}


@pytest.fixture
def begin(group, small_network):
    """Starts runs, all from the same weights."""

    def start(recipe=PLAIN, **options):
        return Run(recipe, group, small_network, **options)

    return start


def batch_of(images=7, *, seed=0, valid_fractions=(1.0, 0.5, 0.02), size=SIZE):
    """Returns (rgb, log_depth, valid_mask, draws): images with very different masks, and NaN where invalid."""
    generator = np.random.default_rng(seed)
    shape = (images, size, size)
    fractions = np.resize(valid_fractions, images)[:, None, None]
    valid = generator.random(shape) < fractions
    log_depth = generator.normal(1.0, 0.5, shape).astype(np.float32)
    return (
        generator.integers(0, 256, (*shape, 3), np.uint8),
        np.where(valid, log_depth, np.float32(np.nan)),
        valid,
        np.tile(NEUTRAL, (images, 1)),
    )


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for path, weights in one.items():
        np.testing.assert_allclose(other[path], weights, rtol=tolerance, atol=tolerance, err_msg=path)


# --- parts ---


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_parts_equal_the_whole(begin, dtype, tolerance):
    """7 images in 3 uneven parts, with group normalisation, so that no image depends on another."""
    batches = [batch_of(7, seed=seed) for seed in range(3)]
    loss = (("tutorial", 1.0), ("silog", 0.5))
    runs = [begin(replace(PLAIN, dtype=dtype, loss=loss, accumulation_steps=parts)) for parts in (1, 3)]
    whole, *in_parts = ([run.step(batch) for batch in batches] for run in runs)
    assert np.ptp(whole) > 0.01
    for run, losses in zip(runs[1:], in_parts, strict=True):
        np.testing.assert_allclose(losses, whole, rtol=tolerance)
        assert_close(runs[0].weights(), run.weights(), tolerance)


def test_a_part_without_a_valid_pixel_does_not_count(begin):
    """The second of two parts is empty: it must not halve the first."""
    batch = batch_of(4, valid_fractions=(0.5, 0.5, 0.0, 0.0))
    runs = [begin(replace(PLAIN, accumulation_steps=parts)) for parts in (1, 2)]
    losses = [run.step(batch) for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert_close(runs[0].weights(), runs[1].weights(), 1e-6)


def views_of(images, count, *, seed=0, size=SIZE):
    """Returns views of other textures from a few centimetres away; cameras and poses differ between images."""
    generator = np.random.default_rng(seed)
    poses = np.tile(np.eye(4, dtype=np.float32), (images, count, 1, 1))
    poses[..., :3, 3] = generator.normal(0.0, 0.05, (images, count, 3))
    camera = generator.uniform(size, 1.2 * size, (images, 4)).astype(np.float32)
    camera[:, 2:] = size / 2
    return Views(
        generator.integers(0, 256, (images, count, size, size, 3), np.uint8),
        camera,
        np.repeat(camera[:, None], count, axis=1),
        poses,
    )


STEREO, VIDEO = {"objective": (("stereo", 1.0),)}, {"objective": (("video", 1.0),)}
BY_VIEWS = {
    "stereo": STEREO,
    "video": {**VIDEO, "supervised_scales": 2},
    "given": {**VIDEO, "poses": "given", "auto_mask": False},
    "mixed": {"objective": (("supervised", 1.0), ("video", 0.5)), "horizontal_flip": True},
    "canonical": {**STEREO, "camera": "canonical"},
}


@pytest.mark.parametrize("name", BY_VIEWS)
def test_parts_equal_the_whole_by_views(begin, name):
    """5 images in 2 uneven parts; the pose network learns along."""
    recipe = replace(PLAIN, dtype="float64", **BY_VIEWS[name])
    count = len(KINDS[recipe.views_from])
    runs = [begin(replace(recipe, accumulation_steps=parts)) for parts in (1, 2)]
    before = runs[0].weights()
    losses = [[run.step(batch_of(5, seed=k), views=views_of(5, count, seed=k)) for k in range(2)] for run in runs]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)
    assert_close(runs[0].weights(), runs[1].weights(), 1e-12)
    moved = {path.partition("_")[0] for path, value in runs[0].weights().items() if (value != before[path]).any()}
    assert moved >= ({"small", "log"} | ({"pose"} if recipe.learns_poses else set()))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_views_are_compared_in_float32(begin, dtype):
    runs = [begin(replace(PLAIN, dtype=name, **STEREO)) for name in ("float32", dtype)]
    losses = [run.step(batch_of(2), views=views_of(2, 1)) for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_xla_compiles_views(begin):
    losses = [begin(replace(PLAIN, xla=xla, **STEREO)).step(batch_of(2), views=views_of(2, 1)) for xla in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


# --- images larger than the network ---


def test_larger_images_shrink_to_the_network(begin):
    """Without augmentation: a step on images of twice the size is one on their means and point-sampled depths."""
    large = batch_of(4, size=2 * SIZE)
    rgb, log_depth, valid, draws = large
    means = np.round(rgb.reshape(4, SIZE, 2, SIZE, 2, 3).astype(np.float32).mean(axis=(2, 4))).astype(np.uint8)
    small = (means, log_depth[:, 1::2, 1::2], valid[:, 1::2, 1::2], draws)
    runs = [begin(), begin(stored_size=(2 * SIZE, 2 * SIZE))]
    losses = [run.step(batch) for run, batch in zip(runs, (small, large), strict=True)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert_close(runs[0].weights(), runs[1].weights(), 1e-6)


# --- pixel weights ---


def gradient_by_hand(model, batch, loss_of):
    """Returns loss and gradients of the whole batch, without the step."""
    rgb, log_depth, valid, _ = batch
    with tf.GradientTape() as tape:
        outputs = model(tf.constant(rgb), training=True)
        loss = loss_of(outputs, tf.constant(np.where(valid, log_depth, 0), tf.float64), tf.constant(valid, tf.float64))
    return loss.numpy(), tape.gradient(loss, [variable.value for variable in model.trainable_variables])


def mean_over_pixels(output, log_depth, valid):
    return tf.reduce_sum(valid * tf.abs(output[..., 0] - log_depth)) / tf.reduce_sum(valid)


def mean_of_images(output, log_depth, valid):
    per_image = tf.reduce_sum(valid * tf.abs(output[..., 0] - log_depth), (1, 2)) / tf.reduce_sum(valid, (1, 2))
    return tf.reduce_mean(per_image)


@pytest.mark.parametrize("clip_norm", [None, 1e-3])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_gradient_norm_is_of_the_whole_batch_before_clipping(begin, parts, clip_norm):
    run = begin(replace(PLAIN, dtype="float64", accumulation_steps=parts, clip_norm=clip_norm))
    _, gradients = gradient_by_hand(run.model, batch_of(7), mean_over_pixels)
    run.step(batch_of(7))
    wanted = np.sqrt(sum(np.sum(np.square(gradient.numpy())) for gradient in gradients))
    assert wanted > 1e-2, "otherwise it would not be clipped"
    assert run.gradient_norm == pytest.approx(wanted, rel=1e-12)


def test_the_gradient_norm_is_without_the_loss_scale(begin):
    """The first step's scale is about 2^15."""
    runs = [begin(replace(PLAIN, dtype=dtype)) for dtype in ("float32", "mixed_float16")]
    for run in runs:
        run.step(batch_of(7))
    assert float(runs[1].optimizer.scale_loss(1.0)) > 1000
    assert runs[1].gradient_norm == pytest.approx(runs[0].gradient_norm, rel=0.02)


@pytest.mark.parametrize("parts", [1, 3])
def test_every_valid_pixel_has_the_same_weight(begin, parts):
    """Masks of 256, 128 and a few pixels; SGD's first step shows the gradient."""
    run = begin(replace(PLAIN, dtype="float64", accumulation_steps=parts))
    batch, before = batch_of(7), run.weights()
    wanted_loss, gradients = gradient_by_hand(run.model, batch, mean_over_pixels)
    other_loss, _ = gradient_by_hand(run.model, batch, mean_of_images)
    assert abs(other_loss - wanted_loss) > 1e-3, "otherwise the test could not tell them apart"
    assert run.step(batch) == pytest.approx(wanted_loss, rel=1e-12)
    wanted = {path: before[path] - RATE * g.numpy() for path, g in zip(before, gradients, strict=True)}
    assert_close(wanted, run.weights(), 1e-12)


def test_coarse_scales_by_hand(begin):
    """The half-size output sees every second pixel and has half the weight: (fine + half / 2) / 1.5."""

    def by_hand(outputs, log_depth, valid):
        fine, half = outputs
        coarse = mean_over_pixels(half, log_depth[:, ::2, ::2], valid[:, ::2, ::2])
        return (mean_over_pixels(fine, log_depth, valid) + coarse / 2) / 1.5

    run = begin(replace(PLAIN, dtype="float64", supervised_scales=2))
    batch, before = batch_of(4), run.weights()
    wanted_loss, gradients = gradient_by_hand(run.model, batch, by_hand)
    assert run.step(batch) == pytest.approx(wanted_loss, rel=1e-12)
    wanted = {path: before[path] - RATE * g.numpy() for path, g in zip(before, gradients, strict=True)}
    assert_close(wanted, run.weights(), 1e-12)


def test_without_a_valid_pixel_nothing_is_learned(begin):
    """As in the empty batch of a worker that has failed; depth is NaN under the mask."""
    run = begin()
    before = run.weights()
    assert run.step(batch_of(3, valid_fractions=(0.0,))) == 0
    for path, weights in run.weights().items():
        np.testing.assert_array_equal(weights, before[path])


def test_the_loss_is_of_the_weights_before_the_update(begin):
    run = begin(replace(PLAIN, learning_rate=1e-9))
    assert run.step(batch_of()) == pytest.approx(run.step(batch_of()), rel=1e-5)
    learning = begin()
    losses = [learning.step(batch_of()) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


# --- what changes ---


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_variables_stay_to_the_last_bit(begin, optimizer):
    run = begin(replace(PLAIN, optimizer=optimizer, clip_norm=1.0), frozen=("small_",))
    before = run.weights()
    for seed in range(2):
        run.step(batch_of(seed=seed))
    after = run.weights()
    assert {path for path in before if not np.array_equal(before[path], after[path])} == {
        "log_depth/kernel",
        "log_depth/bias",
    }


def test_other_variables_are_updated_as_if_none_were_frozen(begin):
    """In the first step and without clipping, whose norm covers only the computed gradients."""
    free, half_frozen = begin(), begin(frozen=("small_",))
    assert half_frozen.step(batch_of()) == free.step(batch_of())
    for path in ("log_depth/kernel", "log_depth/bias"):
        np.testing.assert_allclose(half_frozen.weights()[path], free.weights()[path], rtol=1e-6)


def test_frozen_variables_with_accumulation(begin):
    run = begin(replace(PLAIN, accumulation_steps=3), frozen=("small_",))
    whole = begin(frozen=("small_",))
    assert run.step(batch_of()) == pytest.approx(whole.step(batch_of()), rel=1e-6)
    assert_close(whole.weights(), run.weights(), 1e-6)


def test_signals_are_returned(begin):
    """The sum over one worker is its own signals."""
    run = begin()
    run.step(batch_of(2), signals=(1.0, 0.0, 0.5))
    assert run.signals.tolist() == [1.0, 0.0, 0.5]
    run.step(batch_of(3), signals=(0.0,))
    assert run.signals.tolist() == [0.0]


# --- precision and compilation ---


@pytest.mark.parametrize("frozen", [(), ("block0_", "embed")])
def test_blocks_that_are_computed_again_change_nothing(group, frozen):
    """To the last bit, with accumulation, and with some of the blocks frozen."""
    network = {"encoder": "dinov2_tiny", "decoder": "dpt", "decoder_filters": (8,), "decoder_norm": "none"}
    recipe = replace(PLAIN, **network, height=28, width=28, learning_rate=1e-3, accumulation_steps=2)

    def build(**_):
        keras.utils.set_random_seed(0)
        return build_network(recipe)

    kept, again = (Run(replace(recipe, remat=remat), group, build, frozen=frozen) for remat in (False, True))
    before = kept.weights()
    for seed in range(2):
        batch = batch_of(4, seed=seed, size=28)
        assert again.step(batch) == kept.step(batch)
    for path, weights in kept.weights().items():
        np.testing.assert_array_equal(again.weights()[path], weights)
        assert np.array_equal(weights, before[path]) == path.startswith(frozen or "no layer"), path


def test_xla_changes_nothing(begin):
    """Compared with parts that are not compiled; the last part differs in size."""
    runs = [begin(replace(PLAIN, xla=xla, accumulation_steps=3)) for xla in (False, True)]
    plain, compiled = ([run.step(batch_of(seed=seed)) for seed in range(3)] for run in runs)
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)
    assert_close(runs[0].weights(), runs[1].weights(), 1e-5)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_near_float32(begin, dtype):
    """bfloat16 has 8 bits, float16 has 11. Weights and loss are float32."""
    exact, mixed = begin(), begin(replace(PLAIN, dtype=dtype))
    wanted, losses = ([run.step(batch_of(seed=seed)) for seed in range(4)] for run in (exact, mixed))
    assert all(np.isfinite(losses))
    np.testing.assert_allclose(losses, wanted, rtol=5e-2 if dtype == "mixed_bfloat16" else 5e-3)
    assert not np.array_equal(losses, wanted), "otherwise nothing was mixed"
    assert all(weights.dtype == np.float32 for weights in mixed.weights().values())
    if dtype == "mixed_float16":
        assert float(mixed.optimizer.dynamic_scale) == 2.0**15
        assert int(mixed.optimizer.iterations) == 4


def test_gradients_that_overflow_in_float16_are_skipped(begin):
    """With too large a scale, the loss is still reported, the weights stay, and the scale is halved until it fits."""
    run = begin(replace(PLAIN, dtype="mixed_float16"))
    run.optimizer.dynamic_scale.assign(2.0**120)
    before = run.weights()
    assert np.isfinite(run.step(batch_of()))
    for path, weights in run.weights().items():
        np.testing.assert_array_equal(weights, before[path])
    assert float(run.optimizer.dynamic_scale) == 2.0**119
    assert int(run.optimizer.iterations) == 0


# --- augmentation ---

AUGMENTED = replace(PLAIN, horizontal_flip=True, max_zoom=2.0, colour_jitter=0.4, blur=0.5)


def drawn(batch, *, epoch=0):
    ids = [f"00022_00193_indoors_{k:03d}_000" for k in range(len(batch[0]))]
    return (*batch[:3], draw(AUGMENTED, seed=0, epoch=epoch, sample_ids=ids))


def test_the_same_draws_make_the_same_step(begin):
    one, two, three = begin(AUGMENTED), begin(AUGMENTED), begin(AUGMENTED)
    assert one.step(drawn(batch_of())) == two.step(drawn(batch_of())) != three.step(drawn(batch_of(), epoch=1))
    for path, weights in one.weights().items():
        np.testing.assert_array_equal(two.weights()[path], weights)
    assert any(not np.array_equal(weights, three.weights()[path]) for path, weights in one.weights().items())


def test_a_mirrored_draw_is_a_mirrored_batch(begin):
    """Bit for bit. Without augmentation in the recipe, draws are ignored."""
    rgb, log_depth, valid, draws = batch_of(4)
    flipped = draws.copy()
    flipped[:, Column.FLIP] = 1
    augmented, plain = begin(replace(PLAIN, horizontal_flip=True)), begin()
    by_hand = (rgb[:, :, ::-1].copy(), log_depth[:, :, ::-1].copy(), valid[:, :, ::-1].copy(), flipped)
    assert augmented.step((rgb, log_depth, valid, flipped)) == plain.step(by_hand)
    for path, weights in plain.weights().items():
        np.testing.assert_array_equal(augmented.weights()[path], weights)


def test_the_count_is_that_of_the_augmented_masks(begin):
    """A zoom shows a part of the frame; pixels outside it do not count. Only the upper left quarter is valid."""
    rgb, log_depth, _, draws = batch_of(2, valid_fractions=(1.0,))
    valid = np.zeros((2, SIZE, SIZE), bool)
    valid[:, : SIZE // 2, : SIZE // 2] = True
    log_depth = np.full_like(log_depth, 2.0)
    draws[:, Column.ZOOM] = 2.0
    draws[:, [Column.CENTRE_Y, Column.CENTRE_X]] = 0.75  # The lower right quarter, where nothing is valid...
    draws[0, [Column.CENTRE_Y, Column.CENTRE_X]] = 0.25  # ...and the upper left.
    run = begin(replace(PLAIN, max_zoom=2.0, zoom_depth="keep"))
    both = run.step((rgb, log_depth, valid, draws))
    alone = begin(replace(PLAIN, max_zoom=2.0, zoom_depth="keep")).step((rgb[:1], log_depth[:1], valid[:1], draws[:1]))
    assert both == pytest.approx(alone, rel=1e-5)


def test_a_named_augmentation_is_applied(begin):
    """With draws of 0 the step is the same as without it; with other draws it differs."""
    rgb, log_depth, valid, draws = batch_of(4)
    neutral, drawn_ = (np.column_stack([draws, np.full(4, value, np.float32)]) for value in (0.0, 0.5))
    named = replace(PLAIN, augment=(("gamma", 0.5),))
    plain = begin().step((rgb, log_depth, valid, draws))
    assert begin(named).step((rgb, log_depth, valid, neutral)) == plain
    assert begin(named).step((rgb, log_depth, valid, drawn_)) != plain


# --- one trace ---


def test_batches_of_any_size_share_one_trace(begin):
    """The last batch is smaller; another trace would take minutes on a large network."""
    run = begin()
    traced = []
    call = keras.Model.__call__

    def counted(self, *args, **kwargs):
        traced.append(1)
        return call(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "__call__", counted)
        for images in (7, 4, 1):
            run.step(batch_of(images))
    assert len(traced) <= 2, "tf.function may trace twice if variables are created; here none are"
