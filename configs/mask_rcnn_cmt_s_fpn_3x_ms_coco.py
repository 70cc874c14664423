# Mask R-CNN with CMT-S on COCO for 36 epochs at several scales (CMT, appendix B.3).
# The paper (table 13) reports 48.3 box AP and 43.7 mask AP, where PVT-Small has 43.0 and 39.9.
#
# All else is as in the 1x config, the optimizer's values, which are inferred, too.
_base_ = './mask_rcnn_cmt_s_fpn_1x_coco.py'

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
