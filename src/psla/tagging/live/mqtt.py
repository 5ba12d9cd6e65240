"""An MQTT broker, and through it Home Assistant, which finds the sounds by itself.

    psla/NAME/availability             online, offline; the broker says offline should this end without a word
    psla/NAME/events                   what is told of events and gaps, as JSON
    psla/NAME/CLASS/state              ON while an event of the class goes on, OFF after it       (kept by the broker)
    psla/NAME/CLASS/event              the event, as JSON: the attributes of the sensor
    homeassistant/binary_sensor/psla_NAME/CLASS/config      what Home Assistant must know of it   (kept by the broker)

Every message is delivered at least once (quality 1). After the connection was lost, it is made again, and classes are
announced anew, should the broker have forgotten them.

Sources: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, MQTT 3.1.1 (OASIS). The extra `mqtt`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote, urlsplit

from psla.data.vocabulary import SoundClass
from psla.extras import needed
from psla.tagging.live.deliver import Message

DISCOVERY = "homeassistant"
_WAIT_S = 10.0


class Mqtt:
    """Publishes messages; for one thread.

    Args:
        address: mqtt://[USER:PASSWORD@]HOST[:PORT], or mqtts:// for TLS.
        name: of this listener, one word: in topics and in Home Assistant.
        model: its name, for Home Assistant.
        classes: those that are announced at once; others when they are first heard.

    Raises:
        ValueError: an address or a name that is none, or paho-mqtt is not installed.
    """

    def __init__(self, address: str, name: str, model: str, classes: Sequence[SoundClass] = ()) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise ValueError(f"a broker is mqtt://HOST or mqtts://HOST, not {address!r}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"the name of a listener has letters, digits, _ and - only, not {name!r}")
        paho = needed("paho.mqtt.client", "mqtt")
        self._name, self._model, self._classes = name, model, list(classes)
        self._topic = f"psla/{name}"
        self._announced: set[str] = set()
        client = self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"psla_{name}")
        if parts.username is not None:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            client.tls_set()
        client.will_set(f"{self._topic}/availability", "offline", qos=1, retain=True)
        client.on_connect = self._connected
        client.reconnect_delay_set(1, 30)
        client.connect_async(parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883))
        client.loop_start()

    def send(self, message: Message) -> None:
        """Publish one message.

        Raises:
            OSError: the broker is away, or did not take it in time.
        """
        pieces = [(f"{self._topic}/events", json.dumps(message), False)]
        if message["type"] == "event":
            slug, sound = _slug(message["id"]), {"id": message["id"], "name": message["name"]}
            pieces = [*self._announcement(sound), *pieces]
            pieces.append((f"{self._topic}/{slug}/event", json.dumps(message), False))
            state = "OFF" if message["state"] == "closed" else "ON"
            pieces.append((f"{self._topic}/{slug}/state", state, True))
        self._publish(pieces)
        if message["type"] == "event":
            self._announced.add(message["id"])

    def close(self) -> None:
        """Say that it has ended."""
        with suppress(OSError):  # the broker is away: its own last word says so
            self._publish([(f"{self._topic}/availability", "offline", True)])
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            return
        self._announced.clear()
        client.publish(f"{self._topic}/availability", "online", qos=1, retain=True)
        for sound in self._classes:
            for topic, payload, retain in self._announcement({"id": sound.id, "name": sound.name}):
                client.publish(topic, payload, qos=1, retain=retain)

    def _publish(self, pieces: Sequence[tuple[str, str, bool]]) -> None:
        if not self._client.is_connected():
            raise OSError("the broker is not connected")
        sent = [self._client.publish(topic, payload, qos=1, retain=retain) for topic, payload, retain in pieces]
        for each in sent:
            try:
                each.wait_for_publish(_WAIT_S)
            except (RuntimeError, ValueError) as error:
                raise OSError(f"the broker was not told: {error}") from error
            if not each.is_published():
                raise OSError(f"the broker did not take it within {_WAIT_S:g} s")

    def _announcement(self, sound: dict[str, str]) -> list[tuple[str, str, bool]]:
        """What makes Home Assistant show a class as a sensor."""
        if sound["id"] in self._announced:
            return []
        slug = _slug(sound["id"])
        origin = {"name": "psla", "sw_version": version("psla")}
        device = {"identifiers": [f"psla_{self._name}"], "name": f"psla {self._name}", "manufacturer": "psla"}
        config = {
            "name": sound["name"],
            "unique_id": f"psla_{self._name}_{slug}",
            "state_topic": f"{self._topic}/{slug}/state",
            "json_attributes_topic": f"{self._topic}/{slug}/event",
            "availability_topic": f"{self._topic}/availability",
            "payload_on": "ON",
            "payload_off": "OFF",
            "device_class": "sound",
            "device": {**device, "model": self._model, "sw_version": origin["sw_version"]},
            "origin": origin,
        }
        return [(f"{DISCOVERY}/binary_sensor/psla_{self._name}/{slug}/config", json.dumps(config), True)]


def _slug(id: str) -> str:
    """A class id as a word of a topic; different ids give different words.

    Example:
        >>> _slug("/m/0bt9lr"), _slug("dog bark"), _slug("dog_bark")
        ('_2f_m_2f_0bt9lr', 'dog_20_bark', 'dog_5f_bark')
    """
    return "".join(each if each.isascii() and (each.isalnum() or each == "-") else f"_{ord(each):x}_" for each in id)
