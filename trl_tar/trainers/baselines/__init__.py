"""The earlier defences that TAR is compared with, one file each."""
