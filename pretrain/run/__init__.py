"""What every package needs to run: command line, run directory, ledger, metrics, console, Ray."""
