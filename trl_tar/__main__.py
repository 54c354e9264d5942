"""`python -m trl_tar`."""

import sys

from .cli.main import main


sys.exit(main())
