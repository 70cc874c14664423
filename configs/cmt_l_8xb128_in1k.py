# CMT-L on ImageNet-1k at 288 x 288, 8 GPUs x 128 images. It was never released: its widths and
# depths follow the paper's scaling rule (see mmcontnet/backbones/cmt.py), and its recipe, drop path
# and dropout included, is CMT-B's. Both are inferred.
# The paper reports: 84.8 % top-1 (table 2).
# Parameters and multiply-adds: 74.89M and 19.43G here, 74.7M and 19.5G in the paper.
_base_ = './_base_/cmt_deit_300e_in1k.py'

model = dict(
    backbone=dict(arch='l', drop_path_rate=0.25),
    neck=dict(in_channels=720, drop_rate=0.3),
)

train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1].update(scale=288)
test_pipeline[1].update(scale=329)
test_pipeline[2].update(crop_size=288)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

param_scheduler = _base_.param_scheduler
param_scheduler[1].update(eta_min=2e-5)
