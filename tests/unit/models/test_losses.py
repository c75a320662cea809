"""Losses on log-depth: values by hand, gradients, any split of a batch, and invalid pixels without effect."""

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from depthflow.models.losses import TERMS, Loss, tutorial_loss

SCALES = 2
NAMES = list(TERMS)
ROOT_EPSILON = 1e-6

# Difference to (loss, slope): Huber is quadratic up to 1 and linear beyond.
TUTORIAL = {
    0.0: (0.0, 0.0),
    0.5: (0.25 + 0.1 * 0.125, 1.0 + 0.05),
    -0.5: (0.25 + 0.1 * 0.125, -1.0 - 0.05),
    1.0: (1.0 + 0.1 * 0.5, 2.0 + 0.1),
    2.0: (4.0 + 0.1 * 1.5, 4.0 + 0.1),
    -3.0: (9.0 + 0.1 * 2.5, -6.0 - 0.1),
}
# The largest is 5, so that c is 1: above it (d^2 + 1) / 2 with slope d, below it |d|.
BERHU = {0.0: (0.0, 0.0), 0.5: (0.5, 1.0), -1.0: (1.0, -1.0), 2.0: (2.5, 2.0), -3.0: (5.0, -3.0), 5.0: (13.0, 5.0)}
L1 = {0.0: (0.0, 0.0), 0.5: (0.5, 1.0), -0.5: (0.5, -1.0), 2.0: (2.0, 1.0), -3.0: (3.0, -1.0)}


def loss_of(name, scales=1):
    return Loss(((name, 1.0),), scales=scales)


def random_batch(seed, shape=(3, 8, 12), valid=0.7, dtype=np.float64):
    """Returns predictions at SCALES scales and the keyword arguments of `Loss.sums`."""
    generator = np.random.default_rng(seed)
    batch, height, width = shape
    sizes = [(batch, -(-height // 2**s), -(-width // 2**s)) for s in range(SCALES)]
    predictions = [generator.uniform(-2.5, 2.5, size).astype(dtype) for size in sizes]
    planes = {
        "log_depth": generator.uniform(-2.5, 2.5, shape).astype(np.float32),
        "valid_mask": generator.random(shape) < valid,
        "rgb": generator.integers(0, 256, (*shape, 3), dtype=np.uint8),
    }
    return predictions, planes


def value_and_gradients(loss, predictions, planes):
    """Returns a batch's loss and its gradient with respect to each prediction."""
    predictions = [tf.constant(prediction) for prediction in predictions]
    planes = {name: tf.constant(plane) for name, plane in planes.items()}
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        value = loss.value(loss.sums(predictions, **planes), loss.counts(planes["valid_mask"]))
    gradients = tape.gradient(value, predictions, unconnected_gradients="zero")
    return float(value), [gradient.numpy() for gradient in gradients]


def value_of(name, difference, valid=None, rgb=None):
    """Returns the loss of one image whose ground truth is 1 everywhere."""
    difference = np.asarray(difference, np.float64)[None]
    valid = np.ones(difference.shape, bool) if valid is None else np.asarray(valid, bool)[None]
    rgb = np.zeros((*difference.shape, 3), np.uint8) if rgb is None else np.asarray(rgb, np.uint8)[None]
    planes = {"log_depth": np.ones_like(difference), "valid_mask": valid, "rgb": rgb}
    return value_and_gradients(loss_of(name), [difference + 1], planes)[0]


def test_published_names_of_terms_exist():
    assert {"tutorial", "l1", "berhu", "silog", "gradient", "smoothness"} <= set(TERMS)


# By hand.


def test_tutorial_per_pixel_by_hand():
    expected = [value for value, _ in TUTORIAL.values()]
    np.testing.assert_allclose(tutorial_loss(tf.constant(list(TUTORIAL), tf.float64)), expected, rtol=1e-12)


@pytest.mark.parametrize(("name", "table"), [("tutorial", TUTORIAL), ("l1", L1), ("berhu", BERHU)])
def test_sum_count_and_slope_over_valid_pixels_by_hand(name, table):
    """The ground truth is 1 everywhere; every second pixel is masked and far from it."""
    differences = np.array([[[d, 100.0] for d in table]], np.float64)
    valid = np.array([[[True, False] for _ in table]])
    planes = {
        "log_depth": np.ones_like(differences),
        "valid_mask": valid,
        "rgb": np.zeros((*valid.shape, 3), np.uint8),
    }
    loss = loss_of(name)
    total = sum(value for value, _ in table.values())
    np.testing.assert_allclose(loss.sums([differences + 1.0], **planes), [total], rtol=1e-12)
    np.testing.assert_array_equal(loss.counts(valid), [len(table)])
    value, (gradient,) = value_and_gradients(loss, [differences + 1.0], planes)
    assert value == pytest.approx(total / len(table), rel=1e-12)
    np.testing.assert_allclose(gradient[..., 0] * len(table), [[slope for _, slope in table.values()]], rtol=1e-12)
    np.testing.assert_array_equal(gradient[..., 1], 0.0)


def test_berhus_threshold_is_of_each_image():
    """(5, 1) has c = 1 and (10, 1) has c = 2: (5^2 + 1) / 2 + 1 and (10^2 + 2^2) / 4 + 1."""
    differences = np.array([[[5.0, 1.0]], [[10.0, 1.0]]])
    planes = {"log_depth": np.zeros((2, 1, 2)), "valid_mask": np.ones((2, 1, 2), bool)}
    planes["rgb"] = np.zeros((2, 1, 2, 3), np.uint8)
    np.testing.assert_allclose(loss_of("berhu").sums([differences], **planes), [14 + 27], rtol=1e-12)


def test_silog_by_hand():
    # A constant error c: c^2 - 0.85 c^2. Errors of 1 and 3: mean square 5, mean 2.
    assert value_of("silog", np.full((2, 3), -2.0)) == pytest.approx(2 * np.sqrt(0.15), rel=1e-9)
    assert value_of("silog", [[1.0, 3.0]]) == pytest.approx(np.sqrt(5 - 0.85 * 4), rel=1e-9)
    assert value_of("silog", [[1.0, 3.0, 50.0]], [[1, 1, 0]]) == pytest.approx(np.sqrt(5 - 0.85 * 4), rel=1e-9)
    assert value_of("silog", np.zeros((2, 3))) == pytest.approx(ROOT_EPSILON)


def test_silog_is_a_mean_over_images_with_a_valid_pixel():
    valid = np.zeros((3, 2, 2), bool)
    valid[0] = True
    valid[2, 0, 0] = True
    predictions = np.stack([np.full((2, 2), d) for d in (1.0, 9.0, 3.0)])
    planes = {"log_depth": np.zeros((3, 2, 2)), "valid_mask": valid, "rgb": np.zeros((3, 2, 2, 3), np.uint8)}
    loss = loss_of("silog")
    np.testing.assert_array_equal(loss.counts(valid), [2])
    assert value_and_gradients(loss, [predictions], planes)[0] == pytest.approx(2 * np.sqrt(0.15), rel=1e-9)


def test_gradient_by_hand():
    """A ramp of slope 1 to the right has steps 1, 2, 4 and 8 across and 0 down, with one mean per scale."""
    ramp = np.tile(np.arange(9.0), (9, 1))
    assert value_of("gradient", ramp) == pytest.approx(np.mean([0.5, 1, 2, 4]), rel=1e-12)
    assert value_of("gradient", ramp.T) == pytest.approx(np.mean([0.5, 1, 2, 4]), rel=1e-12)
    assert value_of("gradient", np.full((9, 9), 7.0)) == 0.0


def test_gradient_uses_pairs_of_valid_pixels():
    # Of 2 x 3: across (1, 1) valid; down only the first column; differences |5-2| and |1-2|.
    difference, valid = [[2.0, 5.0, 90.0], [1.0, 70.0, 4.0]], [[1, 1, 0], [1, 0, 1]]
    loss = loss_of("gradient")
    counts = loss.counts(np.array([valid], bool))
    np.testing.assert_array_equal(counts, [2, 0, 0, 0])
    assert value_of("gradient", difference, valid) == pytest.approx((3 + 1) / 2 / 4, rel=1e-12)


def test_smoothness_by_hand():
    rgb = np.zeros((1, 3, 3))
    rgb[0, 2] = (255, 0, 51)
    weight = np.exp(-(1 + 0 + 0.2) / 3)
    assert value_of("smoothness", [[0.0, 2.0, -1.0]], rgb=rgb) == pytest.approx((2 + 3 * weight) / 2, rel=1e-12)
    assert value_of("smoothness", [[0.0, 2.0, -1.0]], [[1, 1, 0]], rgb) == pytest.approx(2.0, rel=1e-12)
    assert value_of("smoothness", np.full((4, 4), 3.0)) == 0.0


def test_smoothness_ignores_the_ground_truth():
    predictions, planes = random_batch(0)
    other = planes | {"log_depth": planes["log_depth"] * 3}
    sums = [loss_of("smoothness").sums(predictions[:1], **batch).numpy() for batch in (planes, other)]
    np.testing.assert_array_equal(*sums)


# Weights and scales.


def test_terms_add_up_with_their_weights():
    predictions, planes = random_batch(1)
    parts = [value_and_gradients(loss_of(name), predictions[:1], planes)[0] for name in NAMES]
    weights = np.linspace(0.25, 3.0, len(NAMES))
    whole = Loss(tuple(zip(NAMES, weights, strict=True)))
    assert value_and_gradients(whole, predictions[:1], planes)[0] == pytest.approx(np.dot(weights, parts), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_is_the_loss_on_point_sampled_planes(name):
    predictions, planes = random_batch(2)
    coarse = {key: plane[:, ::2, ::2] for key, plane in planes.items()}
    fine_value = value_and_gradients(loss_of(name), predictions[:1], planes)[0]
    coarse_value = value_and_gradients(loss_of(name), predictions[1:], coarse)[0]
    both = value_and_gradients(loss_of(name, scales=2), predictions, planes)[0]
    assert both == pytest.approx((2 * fine_value + coarse_value) / 3, rel=1e-12)


@pytest.mark.parametrize("scales", [1, 2, 5])
def test_the_scales_weights_halve_and_add_up_to_one(scales):
    weights = Loss((("l1", 3.0),), scales=scales).weights
    assert sum(weights) == pytest.approx(3.0)
    assert [a / b for a, b in pairwise(weights)] == pytest.approx([2.0] * (scales - 1))


@pytest.mark.parametrize(("weights", "scales"), [((), 1), ((("l2", 1.0),), 1), ((("l1", 1.0),), 0)])
def test_invalid_weights_and_scales_are_rejected(weights, scales):
    with pytest.raises(ValueError, match="Received"):
        Loss(weights, scales=scales)


def test_another_number_of_predictions_is_rejected():
    predictions, planes = random_batch(3)
    with pytest.raises(ValueError, match="Received: 2"):
        loss_of("l1").sums(predictions, **planes)


# Parts of a batch.


@pytest.mark.parametrize("cuts", [(2, 3), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("name", NAMES)
def test_any_split_of_a_batch_gives_the_same_loss(name, cuts):
    predictions, planes = random_batch(4, shape=(6, 8, 10))
    planes["valid_mask"][1] = False
    planes["valid_mask"][4, 1:] = False
    loss = loss_of(name, scales=SCALES)
    whole = float(loss.value(loss.sums(predictions, **planes), loss.counts(planes["valid_mask"])))
    slices = [slice(a, b) for a, b in zip((0, *cuts), (*cuts, 6), strict=True)]
    counts = sum(loss.counts(planes["valid_mask"][part]) for part in slices)
    sums = [loss.sums([p[part] for p in predictions], **{k: v[part] for k, v in planes.items()}) for part in slices]
    assert counts.dtype == "float32"
    assert float(loss.value(sum(sums), counts)) == pytest.approx(whole, rel=1e-12)
    assert sum(float(loss.value(part, counts)) for part in sums) == pytest.approx(whole, rel=1e-12)
    assert whole > 0


# Invalid pixels.


def under_the_mask(batch, broken):
    """Sets every invalid pixel of the predictions and of the ground truth to a value."""
    predictions, planes = batch
    predictions = [
        np.where(planes["valid_mask"][:, :: 2**s, :: 2**s], p, p.dtype.type(broken)) for s, p in enumerate(predictions)
    ]
    return predictions, planes | {"log_depth": np.where(planes["valid_mask"], planes["log_depth"], np.float32(-broken))}


@pytest.mark.parametrize("broken", [0.3, np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_valid_is_zero_with_zero_gradients(name, broken):
    batch = under_the_mask(random_batch(5, valid=0.0, dtype=np.float32), broken)
    value, gradients = value_and_gradients(loss_of(name, scales=SCALES), *batch)
    assert value == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_invalid_pixels_change_neither_loss_nor_gradient(name, broken):
    batch = random_batch(6, valid=0.6, dtype=np.float32)
    loss = loss_of(name, scales=SCALES)
    expected, expected_gradients = value_and_gradients(loss, *batch)
    value, gradients = value_and_gradients(loss, *under_the_mask(batch, broken))
    assert value == expected > 0
    for s, (gradient, expected_gradient) in enumerate(zip(gradients, expected_gradients, strict=True)):
        valid = batch[1]["valid_mask"][:, :: 2**s, :: 2**s]
        np.testing.assert_array_equal(gradient, expected_gradient)
        np.testing.assert_array_equal(gradient[~valid], 0.0)
        assert (gradient[valid] != 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_that_is_not_finite_where_valid_is_visible(name):
    predictions, planes = random_batch(7, valid=1.0)
    predictions[0][0, 0, 0] = np.nan
    assert np.isnan(value_and_gradients(loss_of(name), predictions[:1], planes)[0])


@pytest.mark.parametrize("name", NAMES)
def test_an_invalid_batch_gives_a_network_zero_gradients(name):
    """Also through weights: 0 times the gradient of a finite activation is 0."""
    weight = tf.Variable(np.full((1, 1), 0.5, np.float32))
    planes = {
        "log_depth": tf.fill((2, 3, 1), np.float32(np.nan)),
        "valid_mask": tf.zeros((2, 3, 1), tf.bool),
        "rgb": tf.zeros((2, 3, 1, 3), tf.uint8),
    }
    loss = loss_of(name)
    with tf.GradientTape() as tape:
        value = loss.value(loss.sums([tf.ones((2, 3, 1)) @ weight], **planes), loss.counts(planes["valid_mask"]))
    assert float(value) == 0.0
    np.testing.assert_array_equal(tape.gradient(value, weight).numpy(), 0.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_images_smaller_than_the_coarsest_step_have_a_finite_loss(name, size):
    value, gradients = value_and_gradients(loss_of(name, scales=SCALES), *random_batch(8, shape=(2, *size), valid=1.0))
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


# Gradients.


def numeric_gradients(loss, predictions, planes, step=1e-6):
    """Computes central differences, one pixel of one scale at a time."""

    @tf.function
    def values(many):
        counts = loss.counts(planes["valid_mask"])
        return tf.map_fn(lambda p: loss.value(loss.sums(p, **planes), counts), many, fn_output_signature=tf.float64)

    flat = np.concatenate([p.ravel() for p in predictions])
    ends = np.cumsum([p.size for p in predictions])[:-1]

    def moved(by):
        many = np.split(flat + by * np.eye(flat.size), ends, axis=1)
        return values([part.reshape(-1, *p.shape) for part, p in zip(many, predictions, strict=True)]).numpy()

    slopes = np.split((moved(step) - moved(-step)) / (2 * step), ends)
    return [slope.reshape(p.shape) for slope, p in zip(slopes, predictions, strict=True)]


@pytest.mark.parametrize("valid", [0.0, 0.7])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "berhu"])  # Whose threshold is held constant.
def test_gradient_equals_finite_differences_in_float64(name, valid):
    predictions, planes = random_batch(9, shape=(2, 6, 5), valid=valid)
    size = np.abs(predictions[0] - planes["log_depth"])
    assert (size > 1e-4).all() and (np.abs(size - 1) > 1e-4).all(), "no pixel may lie on a kink"
    assert (size < 1).any() and (size > 1).any(), "both branches must be taken"
    planes["log_depth"][~planes["valid_mask"]] = np.float32(-np.inf)
    loss = loss_of(name, scales=SCALES)
    value, gradients = value_and_gradients(loss, predictions, planes)
    assert (value > 0) == (valid > 0)
    for gradient, numeric in zip(gradients, numeric_gradients(loss, predictions, planes), strict=True):
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_zero_error_on_a_constant_image_has_zero_gradient(name):
    """Central differences are 0 there too, since every term is even around zero error."""
    predictions = [np.full((2, 6, 6), 1.25), np.full((2, 3, 3), 1.25)]
    planes = {
        "log_depth": np.full((2, 6, 6), 1.25, np.float32),
        "valid_mask": np.ones((2, 6, 6), bool),
        "rgb": np.full((2, 6, 6, 3), 255, np.uint8),
    }
    loss = loss_of(name, scales=SCALES)
    value, gradients = value_and_gradients(loss, predictions, planes)
    assert value == pytest.approx(ROOT_EPSILON if name == "silog" else 0.0)
    for gradient, numeric in zip(gradients, numeric_gradients(loss, predictions, planes), strict=True):
        np.testing.assert_array_equal(gradient, 0.0)
        np.testing.assert_allclose(numeric, 0.0, atol=1e-9)


@pytest.mark.parametrize("error", [0.0, 1e-30, 1e-8, 1e-3])
def test_silog_has_a_bounded_gradient_in_float32(error):
    predictions = [np.full((1, 4, 4), error, np.float32)]
    planes = {
        "log_depth": np.zeros((1, 4, 4), np.float32),
        "valid_mask": np.ones((1, 4, 4), bool),
        "rgb": np.zeros((1, 4, 4, 3), np.uint8),
    }
    _, (gradient,) = value_and_gradients(loss_of("silog"), predictions, planes)
    assert (np.abs(gradient) <= np.sqrt(0.15) / 16 + 1e-6).all()


# Precision and compilation.


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_arithmetic_is_at_least_float32(dtype, expected):
    predictions, planes = random_batch(10)
    predictions = [tf.cast(p, dtype) for p in predictions]
    loss = Loss([(name, 1.0) for name in NAMES], scales=SCALES)
    sums = loss.sums(predictions, **planes)
    value = loss.value(sums, loss.counts(planes["valid_mask"]))
    assert sums.dtype == value.dtype == expected
    assert value.shape == () and sums.shape == (len(loss.weights),)
    exact = loss.sums([tf.cast(p, "float64") for p in predictions], **planes)
    np.testing.assert_allclose(sums, exact, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_runs_compiled_and_for_any_batch(jit_compile):
    predictions, planes = random_batch(11, dtype=np.float32)
    loss = Loss([(name, 1.0) for name in NAMES], scales=SCALES)
    expected, _ = value_and_gradients(loss, predictions, planes)

    kinds = {"log_depth": (tf.float32, ()), "valid_mask": (tf.bool, ()), "rgb": (tf.uint8, (3,))}
    sizes = [p.shape[1:] for p in predictions]

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[
            [tf.TensorSpec((None, *size), tf.float32) for size in sizes],
            {name: tf.TensorSpec((None, *sizes[0], *last), dtype) for name, (dtype, last) in kinds.items()},
        ],
    )
    def compiled(predictions, planes):
        return loss.value(loss.sums(predictions, **planes), loss.counts(planes["valid_mask"]))

    assert float(compiled(predictions, planes)) == pytest.approx(expected, rel=1e-5)
