"""Reads .npy files without unpickling anything."""

import io
import math

import numpy as np

from depthflow.datasets.reject import RejectError

NPY_START = b"\x93NUMPY"
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def decode_npy(content: bytes, member: str) -> np.ndarray:
    """Returns an .npy file's array as a view of its bytes, without unpickling; raises RejectError(unreadable_array)."""
    try:
        handle = io.BytesIO(content)
        version = np.lib.format.read_magic(handle)
        if version not in _NPY_HEADERS:
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        shape, fortran_order, dtype = _NPY_HEADERS[version](handle)
        if dtype.hasobject:
            raise ValueError("it holds pickled Python objects, which are not loaded")
        values = np.frombuffer(content, dtype, count=math.prod(shape), offset=handle.tell())
        return values.reshape(shape, order="F" if fortran_order else "C")
    except Exception as error:  # NumPy parses a header as Python, which may raise anything.
        raise RejectError("unreadable_array", f"the {member} is not a plain .npy array: {error}") from None
