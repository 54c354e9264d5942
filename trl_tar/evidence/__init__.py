"""The measurements that README and model cards quote, for developers to repeat: `python -m trl_tar.evidence --help`."""
