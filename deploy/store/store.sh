#!/usr/bin/env bash
# An S3 server whose objects live in memory, for trying things on one machine.
#
#   ACCESS_KEY=... SECRET_KEY=... ROOT=FOLDER LISTEN=127.0.0.1:7480 store.sh
#
# ROOT is emptied; its path has 80 characters at most (unix sockets). MON_PORT and the 60 ports after
# it are Ceph's own, on loopback. Ends with its gateway, or by SIGTERM.
set -euo pipefail
: "${ACCESS_KEY:?}" "${SECRET_KEY:?}" "${ROOT:?}" "${LISTEN:?}" "${MON_PORT:=21000}"
export CEPH_CONF=$ROOT/ceph.conf
mon="[v2:127.0.0.1:$MON_PORT/0,v1:127.0.0.1:$((MON_PORT + 1))/0]"
fsid=$(uuidgen) osd=$(uuidgen) keyring=$ROOT/keyring
rm -rf "${ROOT:?}"/*
mkdir -p "$ROOT"/{mon,osd,run,log}
cat > "$CEPH_CONF" <<CONF
[global]
fsid = $fsid
run dir = $ROOT/run
admin socket = $ROOT/run/\$name.asok
log file = $ROOT/log/\$name.log
crash dir = $ROOT/log
keyring = $keyring
mon host = $mon
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind port min = $((MON_PORT + 2))
ms bind port max = $((MON_PORT + 60))
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
mon data avail crit = 1
mon data avail warn = 2
auth allow insecure global id reclaim = false
[mon.a]
mon data = $ROOT/mon
[osd.0]
osd data = $ROOT/osd
osd objectstore = memstore
memstore device bytes = 8589934592
[client.rgw]
rgw data = $ROOT
rgw frontends = beast endpoint=$LISTEN tcp_nodelay=1
rgw run sync thread = false
rgw dynamic resharding = false
CONF
key() { ceph-authtool "$keyring" --gen-key "$@" > /dev/null; }
key --create-keyring -n mon. --cap mon 'allow *'
key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
key -n client.rgw --cap mon 'allow rwx' --cap osd 'allow rwx'
key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
monmaptool --create --fsid "$fsid" --addv a "$mon" "$ROOT/monmap" > /dev/null
ceph-mon --mkfs -i a --monmap "$ROOT/monmap" --keyring "$keyring"
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
trap 'exit 0' TERM INT
ceph-mon -i a -f 2> "$ROOT/log/mon.err" &
ceph osd new "$osd" 0 > /dev/null
ceph-osd -i 0 --mkfs --osd-uuid "$osd" 2> "$ROOT/log/mkfs.err"
ceph-osd -i 0 -f 2> "$ROOT/log/osd.err" &
radosgw-admin -n client.rgw user create --uid=swath --display-name=swath \
  --access-key="$ACCESS_KEY" --secret-key="$SECRET_KEY" > /dev/null
radosgw -n client.rgw -f 2> "$ROOT/log/rgw.err" &
wait $!
