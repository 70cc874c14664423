# CMT-S as an ImageNet classifier: a projection to 1280 channels before the mean pool, dropout, and
# one linear layer.
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CMT', arch='s'),
    neck=dict(type='CMTNeck', in_channels=512, drop_rate=0.1),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
        topk=(1, 5),
    ),
)
