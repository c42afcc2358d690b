"""`python -m refbench`: the command line, also for launchers that start modules (`accelerate launch -m`)."""

from refbench.bench.cli.start import main

if __name__ == "__main__":
    main()
