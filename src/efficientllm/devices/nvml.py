"""NVIDIA's management library (NVML): one session, its cards, and its errors as reasons."""

from __future__ import annotations

from typing import Any

from efficientllm.devices._contract import SensorError
from efficientllm.devices.visibility import Card, Slice

#: NVML's return code -> what it means to a user, after "<quantity>: ".
_REASONS = {
    1: "the driver vanished",
    2: "the driver does not tell it for this device",
    3: "the driver does not tell it for this device",
    4: "the driver refuses it to this user; an administrator may allow it",
    6: "the driver no longer finds this device",
    9: "the NVIDIA driver is not loaded",
    12: "no NVIDIA driver on this machine (its library libnvidia-ml is not found)",
    13: "this driver is too old to tell it",
    15: "the driver lost the card (it fell off the bus or must be reset)",
    16: "the card must be reset before it can be used",
    17: "the operating system or the container blocks the driver",
    18: "the driver's library and kernel module differ in version; restart the machine",
    21: "the driver has no data of it yet",
    28: "the driver no longer finds this device",
}


class Nvml:
    """A session with the driver.

    Args:
        library: the `pynvml` module; a test gives a stand-in that replays one.

    Raises:
        SensorError: there is no driver, or it does not answer.
    """

    def __init__(self, library: Any = None) -> None:
        if library is None:
            import pynvml

            library = pynvml
        self.library = library
        self.ask("NVIDIA devices", "nvmlInit")

    def ask(self, what: str, function: str, *arguments: Any) -> Any:
        """Call a function of the library.

        Args:
            what: the quantity, named at the head of the reason.
            function: for example `nvmlDeviceGetPowerUsage`.
            arguments: handed on.

        Raises:
            SensorError: the driver answers with an error.
        """
        library = self.library
        if not hasattr(library, function):
            raise SensorError(f"{what}: the installed nvidia-ml-py has no {function}; update it")
        try:
            return getattr(library, function)(*arguments)
        except library.NVMLError as error:
            raise SensorError(f"{what}: {reason_of(error)}") from error
        except library.NVMLLibraryMismatchError as error:
            raise SensorError(f"{what}: this driver is too old to tell it") from error

    def cards(self) -> list[Card]:
        """Return all cards of the machine, in the driver's order, with their MIG slices."""
        count = int(self.ask("NVIDIA devices", "nvmlDeviceGetCount"))
        return [self._card(self.ask("NVIDIA device", "nvmlDeviceGetHandleByIndex", index)) for index in range(count)]

    def handle(self, uuid: str) -> Any:
        """Return the driver's handle of a card or of a MIG slice."""
        return self.ask(f"NVIDIA device {uuid}", "nvmlDeviceGetHandleByUUID", uuid)

    def _card(self, handle: Any) -> Card:
        uuid = str(self.ask("NVIDIA device", "nvmlDeviceGetUUID", handle))
        name = str(self.ask("NVIDIA device", "nvmlDeviceGetName", handle))
        if not self._in_mig_mode(handle):
            return Card(uuid, name)
        places = int(self.ask("MIG slices", "nvmlDeviceGetMaxMigDeviceCount", handle))
        slices = (self._slice(handle, index) for index in range(places))
        return Card(uuid, name, tuple(one for one in slices if one is not None), mig=True)

    def _in_mig_mode(self, handle: Any) -> bool:
        try:
            return bool(self.ask("MIG mode", "nvmlDeviceGetMigMode", handle)[0])
        except SensorError:
            return False  # cards without MIG answer "not supported"

    def _slice(self, handle: Any, index: int) -> Slice | None:
        try:
            slice_handle = self.ask("MIG slice", "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        except SensorError:
            return None  # an empty place
        return Slice(
            uuid=str(self.ask("MIG slice", "nvmlDeviceGetUUID", slice_handle)),
            gpu_instance=int(self.ask("MIG slice", "nvmlDeviceGetGpuInstanceId", slice_handle)),
            compute_instance=int(self.ask("MIG slice", "nvmlDeviceGetComputeInstanceId", slice_handle)),
        )


def reason_of(error: Any) -> str:
    """Return an NVML error in words.

    >>> import pynvml
    >>> reason_of(pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    'no NVIDIA driver on this machine (its library libnvidia-ml is not found)'
    """
    return _REASONS.get(error.value, f"the driver answers {str(error)!r}")
