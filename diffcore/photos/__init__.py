"""Photographs of the paper's seven sets, and of any class/image tree, behind one face.

`open_photos` gives a split whose items fit `diffcore.data.ImageSet`. `find_missing` tells, before
anything heavy is loaded, what is not there and where it comes from; so this package imports
neither torch nor torchvision until a name or a download needs them.
"""

from diffcore.photos.catalogue import PhotosError
from diffcore.photos.fetching import download, sites
from diffcore.photos.photoset import Photographs, PhotoSet, describe, find_missing, open_photos

__all__ = [
    "PhotoSet", "Photographs", "PhotosError", "describe", "download", "find_missing", "open_photos",
    "sites",
]  # fmt: skip
