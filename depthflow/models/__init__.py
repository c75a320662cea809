"""The network and its losses: keras.ops only, so that they run on any Keras backend. No Ray, no MLflow.

Shape suffixes in comments: B images, H x W pixels, C channels.
"""
