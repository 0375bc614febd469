"""The paper's seven sets as published: how many classes and images, and where they come from.

The counts are those of the publishers' pages (for Caltech-101 without its background class, for
Tiny ImageNet and ImageNet without the test images, whose labels are not public). The checksums are
the publishers' or torchvision's. An address may move: the page is where to look then.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """A file to fetch: its address, and the MD5 that the publisher or torchvision gives."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """A complete set.

    Attributes:
        title: how people call it.
        page: the official page.
        folder: what its archive unpacks to, below which the files lie as published.
        marker: a file or folder in it, by which it is found.
        classes: how many.
        images: how many with public labels.
        archives: what to fetch; empty where that cannot be done for a person.
        how: a sentence on how to get it.
        side: of all its images, where they are square and of one size.
    """

    title: str
    page: str
    folder: str
    marker: str
    classes: int
    images: int
    archives: tuple[Download, ...] = ()
    how: str = ""
    side: int | None = None


_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"

PUBLISHED = {
    "cub200": Published(
        "CUB-200-2011", "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        "CUB_200_2011", "images.txt", 200, 11_788,
        (Download("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                  "97eceeb196236b17998738112f37df78"),),
    ),
    "cars": Published(
        "Stanford Cars", "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        "stanford_cars", "devkit", 196, 16_185,
        how="its page is no longer online, so get a copy elsewhere (Kaggle has some, as 'Stanford "
        "Cars'): cars_train.tgz, cars_test.tgz, car_devkit.tgz, cars_test_annos_withlabels.mat",
    ),
    "flowers102": Published(
        "Oxford 102 Flowers", _FLOWERS, "flowers-102", "jpg", 102, 8_189,
        (Download(_FLOWERS + "102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
         Download(_FLOWERS + "imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
         Download(_FLOWERS + "setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c")),
    ),
    "caltech101": Published(
        "Caltech-101", "https://data.caltech.edu/records/mzrjq-6wc02",
        "caltech101", "101_ObjectCategories", 101, 8_677,
        (Download("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                  "3138e1922a9193bfa496528edbbc45d0"),),
    ),
    "cifar100": Published(
        "CIFAR-100 (binary version)", "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-100-binary", "train.bin", 100, 60_000,
        (Download("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                  "03b5dce01913d631647c71ecec9e9cb8"),),
        side=32,
    ),
    "tiny_imagenet": Published(
        "Tiny ImageNet-200", "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200", "wnids.txt", 200, 110_000,
        (Download("http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                  "90528d7ca1a48142e341f4ef8d21d0de"),),
        side=64,
    ),
    "imagenet": Published(
        "ImageNet-1K (ILSVRC2012)", "https://www.image-net.org/download.php",
        "ILSVRC2012", "train", 1_000, 1_331_167,
        how="its licence asks everyone to register, so get ILSVRC2012_img_train.tar and "
        "ILSVRC2012_img_val.tar yourself, and sort both into a folder a WordNet id "
        "(train/n01440764/*.JPEG, val/n01440764/*.JPEG)",
    ),
}  # fmt: skip


def advice(dataset: str, root: str) -> str:
    """Say where a set comes from and where to put it.

    >>> advice("cub200", "data").partition(" (")[0]
    'get CUB_200_2011.tgz'
    """
    published = PUBLISHED[dataset]
    if not published.archives:
        place = f"{root}/{published.folder}"
        return f"{published.how}, into {place}; or change data.root (page: {published.page})"
    names = ", ".join(archive.name for archive in published.archives)
    place = f"{root}/{published.folder}/{published.marker}"
    return (
        f"get {names} ({published.page}) and unpack so that {place} is there, or set data.download "
        "to true, or change data.root"
    )
