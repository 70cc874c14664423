# SE-CoTNetD-152 on ImageNet-1k at 320 x 320, advanced training (CoTNet, section 4.1), 8 GPUs x 64
# images. The paper reports: 84.6 % top-1 (table 4).
# Parameters and multiply-adds: 55.78M and 26.32G here, 55.8M and 26.5G in the paper.
_base_ = './se_cotnetd152_advanced_8xb64_in1k.py'

train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1].update(scale=320)
test_pipeline[1].update(scale=352)
test_pipeline[2].update(crop_size=320)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
