# CMT-XS on ImageNet-1k at 192 x 192, 8 GPUs x 128 images: the recipe of section 4.1 with the 400
# epochs and the rates of the released command, 7e-4 for a batch of 512 (it has 8 x 256).
# The paper reports 81.8 % top-1 (table 2).
_base_ = './_base_/cmt_deit_300e_in1k.py'

model = dict(
    backbone=dict(arch='xs', drop_path_rate=0.08),
    neck=dict(in_channels=416),
)

sizes = dict(
    RandomResizedCrop=dict(scale=192), ResizeEdge=dict(scale=219), CenterCrop=dict(crop_size=192)
)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
for step in train_pipeline + test_pipeline:
    step.update(sizes.get(step.type, {}))
del step, sizes
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1.4e-3, weight_decay=0.04))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=2e-5, by_epoch=True, begin=20),
]
train_cfg = dict(max_epochs=400)
