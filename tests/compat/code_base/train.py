"""A training script in MMCV's style: ``train.py CONFIG --work-dir DIR [--resume-from FILE]``."""

import argparse
import os.path as osp
import random

import mmcv
import numpy as np
import project
import torch
from mmcv import Config
from mmcv.parallel import MMDataParallel
from mmcv.runner import build_optimizer, build_runner
from mmcv.utils import get_logger


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--resume-from")
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    mmcv.mkdir_or_exist(osp.abspath(args.work_dir))
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

    model = project.MODELS.build(cfg.model)
    model.init_weights()
    model = MMDataParallel(model, device_ids=[])
    optimizer = build_optimizer(model, cfg.optimizer)
    logger = get_logger("project", osp.join(args.work_dir, "run.log"))
    runner = build_runner(
        cfg.runner,
        default_args=dict(
            model=model,
            batch_processor=None,
            optimizer=optimizer,
            work_dir=args.work_dir,
            logger=logger,
            meta=dict(seed=0),
        ),
    )
    runner.timestamp = "run"
    runner.register_training_hooks(
        cfg.lr_config,
        mmcv.build_from_cfg(cfg.optimizer_config, project.HOOKS),
        cfg.checkpoint_config,
        cfg.log_config,
        cfg.get("momentum_config"),
        custom_hooks_config=cfg.custom_hooks,
    )
    val = project.make_loader(13, 5, seed=7)
    evaluation = dict(cfg.evaluation, by_epoch=cfg.runner["type"] != "IterBasedRunner")
    runner.register_hook(project.EvalHook(val, **evaluation), priority="LOW")
    if args.resume_from:
        runner.resume(args.resume_from)
    train = project.make_loader(cfg.data.samples, cfg.data.batch_size, seed=3, shuffle=True)
    runner.run([train, val], cfg.workflow)
    assert runner.trained


if __name__ == "__main__":
    main()
