# CMT-Ti on 4,000 handwritten digits, three epochs from scratch: cont_ti_3e_digits.py but for the
# network and the size of the images. A step takes nearly twice as long as ConT-Ti's.
_base_ = './cont_ti_3e_digits.py'

model = dict(
    backbone=dict(_delete_=True, type='CMT', arch='ti', img_size=64),
    neck=dict(_delete_=True, type='CMTNeck', in_channels=368),
    head=dict(in_channels=1280),
)

# A multiple of 32, for which a CMT can have a position bias of its own.
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=64),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = val_dataloader
