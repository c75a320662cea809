"""Flags of predict.py and export.py."""

from typing import TYPE_CHECKING, Annotated, Literal

from depthflow.flags import PoolConfig, Split, explained, flags, require, require_folder
from depthflow.inference.formats import FORMATS

NAMED = {name: one for name, one in FORMATS.items() if not one.needs_camera}
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[tuple(NAMED)]


@flags
class PredictConfig(PoolConfig):
    """Predicts depth for images of any size."""

    model: str
    """MLflow model URI: models:/NAME@champion, models:/NAME/3, runs:/..., a folder, what export.py wrote,
    depth-anything-v2-small, or depth-anything:PLACE, a folder or name on the Hugging Face hub of any Depth Anything."""
    compare: tuple[str, ...] = ()
    """Other models. NAME.compare.png shows their predictions beside this model's; their files go to a folder per model
    in --out."""
    images: tuple[str, ...]
    """Images, folders of images, patterns such as 'photos/**/*.jpg', s3:// or gs:// URIs of any of these (.jpg .jpeg
    .png .webp .bmp .tif .tiff .gif .avif). HEIC and raw photos are rejected."""
    out: str
    """Folder, s3:// or gs:// URI for the files and NAME.depth.json, which records how they were made. An image that has
    all of its files from the same model is skipped."""
    files: Annotated[
        tuple[FormatName, ...],
        explained("Files to write for each image.", {name: one.help for name, one in NAMED.items()}),
    ] = ("npy", "png", "panel")
    """Names in `depthflow.inference.formats.FORMATS`."""
    point_cloud: bool = False
    """Also write NAME.ply, one coloured point per pixel, in metres. Needs a camera, as below."""
    viewer: bool = False
    """Also write NAME.viewer.html: the points to turn and zoom, image and depth beside them, in one file that opens
    without a network. Needs a camera, as below."""
    fx: float | None = None
    """Horizontal focal length in pixels of the image. Without --fx and --fy or --fov-deg, each image's camera is that
    of its EXIF data, else of a camera.json in its folder, else the median of the model's training images."""
    fy: float | None = None
    """Vertical focal length in pixels of the image."""
    fov_deg: float | None = None
    """Horizontal field of view in degrees, instead of --fx and --fy."""
    max_depth_m: float | None = None
    """Mark pixels predicted beyond this depth instead of believing them: NaN in npy, 0 in png, grey in panels, and no
    point."""
    tile_px: int | None = None
    """Add detail from overlapping tiles of this size to images with a longer side. Default: no tiles."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Names in `depthflow.inference.formats.FORMATS` of all files to write for each image."""
        return (*self.files, *["ply"] * self.point_cloud, *["viewer"] * self.viewer)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.images) > 0, "--images needs at least one image or folder. Received: none")
        require(len(self.formats) > 0, "--files needs at least one format, such as npy. Received: none")
        given = [self.fx is not None and self.fy is not None, self.fov_deg is not None]
        require(
            sum(given) <= 1 and (self.fx is None) == (self.fy is None),
            f"--fx and --fy go together, and exclude --fov-deg. Received: {self._camera_flags()}",
        )
        for name in ("fx", "fy"):
            value = getattr(self, name)
            require(value is None or value > 0, f"--{name} must be positive. Received: {value}")
        require(
            self.fov_deg is None or 0 < self.fov_deg < 180,
            f"--fov-deg must be above 0 and below 180. Received: {self.fov_deg}",
        )
        require(
            self.max_depth_m is None or self.max_depth_m > 0,
            f"--max-depth-m must be positive. Received: {self.max_depth_m}",
        )
        require(self.tile_px is None or self.tile_px >= 64, f"--tile-px must be 64 or more. Received: {self.tile_px}")

    def _camera_flags(self) -> str:
        """Formats the camera flags as they were given."""
        values = {"--fx": self.fx, "--fy": self.fy, "--fov-deg": self.fov_deg}
        return " ".join(f"{flag} {value:g}" for flag, value in values.items() if value is not None)


@flags
class ExportConfig(PoolConfig):
    """Exports a registered network for other runtimes, and checks it there."""

    model: str
    """MLflow model URI: models:/NAME@champion, models:/NAME/3, runs:/..., or a folder."""
    format: tuple[Literal["onnx", "litert", "saved_model"], ...]
    """Formats to write: network.onnx, network.tflite, network.saved_model."""
    out: str
    """Folder for the networks. NAME.json beside each says what goes in and what comes out."""
    images: tuple[str, ...] = ()
    """Images to compare the networks on, as for predict.py, besides the version's own input example."""
    tolerance: float = 1e-4
    """Largest relative difference of the metres. If a network in float32 exceeds it, nothing is written."""
    quantize: tuple[Literal["float16", "int8"], ...] = ()
    """LiteRT networks to write as well: network.float16.tflite has half the size, network.int8.tflite a quarter. Their
    differences have no limit: --samples shows what they cost. int8 is calibrated on images of its train split."""
    samples: str | None = None
    """Sample store to evaluate the model and the exported networks on. Required with --quantize."""
    protocol: str = "devkit"
    """Protocol of that evaluation, as for evaluate.py."""
    split: Split = "val"
    """Split to evaluate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.format) > 0, "--format needs at least one format, such as onnx. Received: none")
        require(self.tolerance > 0, f"--tolerance must be positive. Received: {self.tolerance}")
        require_folder(out=self.out)
        given = " ".join(self.quantize)
        require(not given or "litert" in self.format, f"--quantize needs --format litert. Received: {given}")
        require(not given or self.samples is not None, f"--quantize needs --samples STORE. Received: {given}")
