"""Choices of a recipe that reach the workers' processes before TensorFlow does."""


def test_onednn_is_on_where_the_recipe_says_so(run, samples, tmp_path):
    flags = ("--epochs", 1, "--num-workers", 1, "--onednn")
    done = run("train", "smoke", "--samples", samples, "--storage", "runs", *flags, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "oneDNN custom operations are on" in done.stderr, "TensorFlow says so itself"
