from mmengine.config import ConfigDict

from mmcontnet.engine.distributed import _replace_sync_bn


def test_sync_bn_is_replaced_wherever_a_model_names_it() -> None:
    norm = dict(type='SyncBN', requires_grad=True)
    model = ConfigDict(backbone=dict(norm_cfg=norm), heads=[dict(norm_cfg=norm), dict(x=1)])
    assert _replace_sync_bn(model)
    assert model.backbone.norm_cfg.type == 'BN'
    assert model.heads[0].norm_cfg == dict(type='BN', requires_grad=True)
    assert not _replace_sync_bn(model)
