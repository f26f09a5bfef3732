"""Read and write shards: tar files of samples, on local disks and in object storage."""

from open_miipher.shards.archive import (
    Sample,
    ShardError,
    ShardIndex,
    is_compressed,
    read_index,
    read_samples,
    visit_members,
)
from open_miipher.shards.members import (
    ARRAY_EXTENSIONS,
    ARRAY_HEADER_BYTES,
    CLEAN_MEMBER,
    DAMAGED_MEMBER,
    FULL_SCALE,
    RATE_MEMBER,
    Member,
    WaveformInfo,
    decode_samples,
    decode_waveform,
    encode_waveform,
    extension_of,
    measure_waveform,
    open_member,
    read_rate,
)
from open_miipher.shards.storage import S3Config, Storage, StorageError, is_s3
from open_miipher.shards.urls import expand
from open_miipher.shards.writing import ShardWriter, assign_keys, member_name

__all__ = [
    "ARRAY_EXTENSIONS",
    "ARRAY_HEADER_BYTES",
    "CLEAN_MEMBER",
    "DAMAGED_MEMBER",
    "FULL_SCALE",
    "RATE_MEMBER",
    "Member",
    "S3Config",
    "Sample",
    "ShardError",
    "ShardIndex",
    "ShardWriter",
    "Storage",
    "StorageError",
    "WaveformInfo",
    "assign_keys",
    "decode_samples",
    "decode_waveform",
    "encode_waveform",
    "expand",
    "extension_of",
    "is_compressed",
    "is_s3",
    "measure_waveform",
    "member_name",
    "open_member",
    "read_index",
    "read_rate",
    "read_samples",
    "visit_members",
]
