# RetinaNet with PVT-ACmix-T on COCO for 36 epochs at several scales (ACmix, section 5.2).
# The paper (table 4) reports 42.0 box AP, where PVT-T has 39.4.
#
# All else is as in the 1x config.
_base_ = './retinanet_pvt_acmix_t_fpn_1x_coco.py'

# The shorter side is between 640 and 800 pixels.
train_pipeline = [
    dict(type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True)
    if step.type == 'Resize'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

param_scheduler = _base_.param_scheduler
for schedule in param_scheduler:
    if schedule.type == 'MultiStepLR':
        schedule.update(end=36, milestones=[27, 33])
del schedule
train_cfg = dict(max_epochs=36)
