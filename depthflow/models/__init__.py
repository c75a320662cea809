"""The network, its losses and its augmentation, in keras.ops only, so that they run on any Keras backend.

Shape suffixes in comments: B images, H x W pixels, C channels.
"""
