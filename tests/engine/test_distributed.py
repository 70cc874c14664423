from mmengine.config import ConfigDict

from mmcontnet.engine.distributed import replace_sync_bn


def test_sync_bn_isreplaced_wherever_a_model_names_it() -> None:
    norm = dict(type='SyncBN', requires_grad=True)
    model = ConfigDict(backbone=dict(norm_cfg=norm), heads=[dict(norm_cfg=norm), dict(x=1)])
    assert replace_sync_bn(model)
    assert model.backbone.norm_cfg.type == 'BN'
    assert model.heads[0].norm_cfg == dict(type='BN', requires_grad=True)
    assert not replace_sync_bn(model)
