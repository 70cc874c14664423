# CoTNet as an ImageNet classifier: mean pool, dropout (in the advanced recipe), one linear layer.
custom_imports = dict(imports=['mmcontnet'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CoTNet', arch='50'),
    neck=dict(type='CoTNetNeck'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
        topk=(1, 5),
    ),
)
