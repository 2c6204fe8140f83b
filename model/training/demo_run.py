"""The earlier name of `python -m model.demo_training`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("model.demo_training", run_name="__main__", alter_sys=True)
