# CMT-L on ImageNet-1k at 288 x 288, 8 GPUs x 128 images. It was never released: its widths and
# depths follow the paper's scaling rule (see mmcontnet/backbones/cmt.py), and its recipe, drop path
# and dropout included, is CMT-B's. Both are inferred.
# The paper reports 84.8 % top-1 (table 2).
_base_ = './cmt_b_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='l'),
    neck=dict(in_channels=720),
)

sizes = dict(
    RandomResizedCrop=dict(scale=288), ResizeEdge=dict(scale=329), CenterCrop=dict(crop_size=288)
)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
for step in train_pipeline + test_pipeline:
    step.update(sizes.get(step.type, {}))
del step, sizes
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
