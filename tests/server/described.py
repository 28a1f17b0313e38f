"""The operations of every route, as the OpenAPI document describes them."""

from server.app import SURFACES, error_format_of, routed
from server.openapi import operations
from server.service import Service
from server.settings import read_settings

_CONTROLLERS = [controller for surface in SURFACES for controller in surface.controllers]
APP = routed(_CONTROLLERS, Service(read_settings({"ENABLE_MOCK_INFERENCE": "1"})))
OPERATIONS = operations(APP, error_format_of)
