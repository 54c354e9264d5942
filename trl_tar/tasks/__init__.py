"""What is attacked and how it is measured: data sets, metrics, references, one benign task."""
