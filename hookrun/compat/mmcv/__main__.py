"""Run a script with ``mmcv.runner`` answered by hookrun."""

from .command import main

if __name__ == "__main__":
    main()
