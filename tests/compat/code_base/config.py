"""A config in MMCV's style; ``train.py`` reads it with MMCV's Config."""

model = dict(type="Classifier", width=8, init_cfg=dict(type="Normal", layer="Linear", std=0.5))
data = dict(samples=24, batch_size=4)
optimizer = dict(
    type="SGD",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-3,
    paramwise_cfg=dict(bias_lr_mult=2.0, norm_decay_mult=0.0, custom_keys=dict(absent=dict())),
)
optimizer_config = dict(type="WarningOptimizerHook", grad_clip=dict(max_norm=1.0), interval=2)
lr_config = dict(policy="Halving", every=4, by_epoch=False, warmup="linear", warmup_iters=3)
momentum_config = dict(policy="cyclic", target_ratio=(0.9, 1.0), cyclic_times=1)
checkpoint_config = dict(interval=1, max_keep_ckpts=2, meta=dict(note="kept"))
evaluation = dict(interval=1, save_best="accuracy", rule="greater")
log_config = dict(interval=3, hooks=[dict(type="TextLoggerHook"), dict(type="TalkingLoggerHook")])
custom_hooks = [
    dict(type="EMAHook", momentum=0.1, warm_up=5, priority="ABOVE_NORMAL"),
    dict(type="ShuffleHook", seed=1, priority=45),
    dict(type="CheckInvalidLossHook", interval=2),
]
runner = dict(type="CountingRunner", max_epochs=3)
workflow = [("train", 1), ("val", 1)]
