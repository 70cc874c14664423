_base_ = 'mmdet::_base_/datasets/coco_instance.py'

# The shorter side is between 640 and 800 pixels.
scales = [(1333, side) for side in range(640, 801, 32)]
train_pipeline = [
    dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
    if step.type == 'Resize'
    else step
    for step in _base_.train_pipeline
]
del scales
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
