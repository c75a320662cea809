"""Images without depth, such as the frames of a video: each folder of them is a scan, in the order of their names.

Names must sort in the order in which the images were taken, as ffmpeg's %06d.jpg do: frame_10 sorts before frame_9. A
camera.json in the source states the camera of all images; without it, it is unknown.

A frame is a sample of a store of --kind video, with those before and after it. It has no depth, so that a store of kind
depth rejects it (missing_member).

Assumed: each folder is a place of its own, indoors unless its path has a part that is outdoor. The layout is recognised
only where no depth is needed, no other layout fits, and a source has nothing but images, text and video, without a name
that hints at depth.
"""

import posixpath
import re
from collections.abc import Iterator

from depthflow.datasets.folders import IMAGE_ENDINGS, by_stem, make_frame, rooted, scan_names, split_of
from depthflow.datasets.frames import Frame, frame_id
from depthflow.datasets.listing import Listing, SourceFile

_BESIDE = (*IMAGE_ENDINGS, ".txt", ".json", ".md", ".mp4", ".mov")
_DEPTH = re.compile(r"depth|disp", re.IGNORECASE)
_NONE = "there is no depth file: images alone make samples of --kind video"


def fits(listing: Listing) -> bool:
    """Returns whether a source has images, and nothing that might be their depth."""
    endings = {posixpath.splitext(file.name)[1].lower() for file in listing.files}
    is_plain = endings <= {*_BESIDE} and not endings.isdisjoint(IMAGE_ENDINGS)
    return is_plain and not any(_DEPTH.search(file.path) for file in listing.files)


def frames(listing: Listing) -> Iterator[Frame]:
    """Yields a frame for each image of a source."""
    folders = {folder: by_stem(files, IMAGE_ENDINGS) for folder, files in listing.folders.items()}
    for folder, scan in scan_names(listing, [folder for folder, images in folders.items() if images]).items():
        path = rooted(listing, folder)
        for name, image in folders[folder].items():
            yield _frame(listing, image, path=path, scan=scan, name=name)


def _frame(listing: Listing, image: SourceFile, *, path: str, scan: str, name: str) -> Frame:
    return make_frame(
        {"rgb": image},
        problem=_NONE,
        sample_id=frame_id("photos", scan, name),
        dataset="photos",
        split=split_of(path),
        scene_type="outdoor" if "outdoor" in path.split("/") else "indoors",
        scene=scan,
        scan=scan,
        camera=listing.camera,
    )
