"""``python -m dpm``."""

from dpm.cli.main import main

main()
