"""Run in a python that has mergekit: `python mergekit_runs.py JOBS.json`.

JOBS.json: [{"config": YAML file, "out": folder, "shard": bytes}]. Each is merged as `mergekit-yaml`
does it, all in one process; what fails leaves OUT.error with its text.
"""

import json
import sys
import traceback
from pathlib import Path


def main(jobs_path: str) -> None:
    """Merge one after the other."""
    import torch
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    torch.set_num_threads(1)
    jobs = json.loads(Path(jobs_path).read_text(encoding="utf-8"))
    adapters = str(Path(jobs_path).with_name("adapted"))
    for job in jobs:
        LoaderCache().loaders.clear()
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(job["config"]).read_text()))
        options = MergeOptions(
            random_seed=7, quiet=True, lora_merge_cache=adapters, out_shard_size=job["shard"]
        )
        try:
            run_merge(config, job["out"], options)
        except Exception:
            # Whatever it is, the other jobs go on and the test of this one shows the text.
            Path(job["out"] + ".error").write_text(traceback.format_exc(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
