"""What a recipe names: encoders, loss terms, augmentations. An entry of a table is all there is to say of one of them.

The names that a flag takes, what --help says of each and the code behind it come from the same entry, so these modules
lie below the configuration. They import Keras when something of it is first used: a command line needs names alone.
"""
