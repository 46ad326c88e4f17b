import gzip
import lzma

import pytest

from jdnas.errors import TargetError
from latency.blocks import Block
from latency.conv_library import ConvRow, read_conv_library

TEXT = """{Regular,1,64,56,57,128,3,2,1} 0.25
{Depthwise,1,32,28,28,32,5,1,0} 0.0125

{Regular,1,3,480,480,64,7,2,0} -1
{Regular,32,8,8,8,8,1,1,0} 0.5
"""


@pytest.fixture
def write(tmp_path):
    def made(text, name="rows.out"):
        path = tmp_path / name
        pack = {".xz": lzma.compress, ".gz": gzip.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(text.encode()))
        return path

    return made


@pytest.mark.parametrize("name", ["rows.out", "rows.out.xz", "rows.out.gz"])
def test_rows_of_one_batch_without_failed_ones(write, name):
    library = read_conv_library(write(TEXT, name), batch=1)
    assert set(library.rows) == {
        ConvRow(Block("conv 3x3/2", (64, 128, 28, 29, 1)), True, 0.25),
        ConvRow(Block("depthwise 5x5/1", (32, 32, 28, 28, 1)), False, 0.0125),
    }
    assert (library.failed, library.other_batches, library.file) == (1, 1, name)
    assert len(library.sha256) == 64


@pytest.mark.parametrize(
    "line",
    ["{Regular,1,64,56,56,128,3,2} 0.25", "{Grouped,1,64,56,56,128,3,2,0} 0.25", "{Regular,1,64,56,56,128,3,2,0} fast", "conv 3x3",
     "{Regular,1,64,56,56,128,3,2,0} nan", "{Regular,1,64,56,56,128,3,2,0} 0", "{Regular,1,64,56,56,128,3,2,0} -2",
     "{Regular,1,64,56,56,128,3,2,0}"],
)  # fmt: skip
def test_a_line_of_another_form_is_named(write, line):
    with pytest.raises(TargetError, match=r"rows.out, line 2 is .* milliseconds above 0, or -1"):
        read_conv_library(write("{Regular,1,8,8,8,8,1,1,0} 0.5\n" + line + "\n"), batch=1)


def test_sizes_below_one(write):
    with pytest.raises(TargetError, match="line 1 has a size below 1"):
        read_conv_library(write("{Regular,1,8,8,8,0,1,1,0} 0.5\n"), batch=1)


def test_nothing_usable(write):
    with pytest.raises(TargetError, match="no usable row of batch 4; it holds batches 1, 32"):
        read_conv_library(write(TEXT), batch=4)
    with pytest.raises(TargetError, match="it holds no row"):
        read_conv_library(write(""), batch=1)


def test_broken_files(write, tmp_path):
    with pytest.raises(TargetError, match="does not exist"):
        read_conv_library(tmp_path / "none.xz", batch=1)
    for name in ("cut.xz", "cut.gz"):
        path = write(TEXT * 50, name)
        path.write_bytes(path.read_bytes()[:-12])
        with pytest.raises(TargetError, match="cannot be read: .*get it again"):
            read_conv_library(path, batch=1)
    path = tmp_path / "other.xz"
    path.write_text("not compressed")
    with pytest.raises(TargetError, match="cannot be read"):
        read_conv_library(path, batch=1)
    (tmp_path / "photo.out").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(TargetError, match="cannot be read"):
        read_conv_library(tmp_path / "photo.out", batch=1)
