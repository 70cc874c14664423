# SE-CoTNetD-152 on ImageNet-1k at 320 x 320, advanced training (CoTNet, section 4.1), 8 GPUs x 64
# images.
# The paper reports 84.6 % top-1 (table 4).
_base_ = './se_cotnetd152_advanced_8xb64_in1k.py'

sizes = dict(
    RandomResizedCrop=dict(scale=320), ResizeEdge=dict(scale=352), CenterCrop=dict(crop_size=320)
)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
for step in train_pipeline + test_pipeline:
    step.update(sizes.get(step.type, {}))
del step, sizes
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
