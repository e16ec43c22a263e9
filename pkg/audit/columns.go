package audit

import (
	"database/sql/driver"
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// insertBatch inserts the events of a batch: one array a column, so that the statement is the same for
// every size of batch. The events' numbers follow each other.
const insertBatch = `
insert into rgw.audit_events (occurred_at, event_id, epoch, request_id, writer_id, writer_seq, mac_key, mac,
  kind, phase, decision, actor_kind, actor_id, actor_label, action, app, resource, status, address, detail)
select e.occurred_at, e.event_id, (select epoch from rgw.cluster_epoch), e.request_id, $1::uuid, $2::bigint + e.n - 1, $3::text, e.mac,
  e.kind::rgw.event_kind, e.phase::rgw.event_phase, e.decision::rgw.event_decision, e.actor_kind::rgw.actor_kind,
  e.actor_id, e.actor_label, e.action, e.app, e.resource, e.status, e.address, e.detail
from unnest($4::timestamptz[], $5::uuid[], $6::uuid[], $7::bytea[], $8::text[], $9::text[], $10::text[], $11::text[],
  $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::integer[], $18::inet[], $19::json[])
  with ordinality as e(occurred_at, event_id, request_id, mac, kind, phase, decision, actor_kind,
    actor_id, actor_label, action, app, resource, status, address, detail, n)`

// insertAgain is insertBatch for a batch that may be there already. Looking for what is there costs the database a
// fifth more, which the first attempt, before which nothing can be there, need not pay.
const insertAgain = insertBatch + `
on conflict do nothing`

// PostgreSQL's ids of the types that arrays here are made of (src/include/catalog/pg_type.dat).
const (
	oidBytea       = 17
	oidInt4        = 23
	oidText        = 25
	oidJSON        = 114
	oidInet        = 869
	oidTimestamptz = 1184
	oidUUID        = 2950
)

// columns holds the parameters of insertBatch in PostgreSQL's binary format. It reuses its buffers.
type columns struct {
	args    []driver.NamedValue
	writer  [16]byte
	seq     [8]byte
	arrays  [16]array
	address [20]byte
}

// array is a one-dimensional array in binary format (array_send in src/backend/utils/adt/arrayfuncs.c):
// dimensions, whether there are nulls, the elements' type, length and lower bound, and the elements, each
// behind its length in bytes or -1.
type array struct{ buf []byte }

func (a *array) begin(oid uint32, length int) {
	b := binary.BigEndian.AppendUint32(a.buf[:0], 1)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, oid)
	b = binary.BigEndian.AppendUint32(b, uint32(length)) //nolint:gosec // at most MaxBatch
	a.buf = binary.BigEndian.AppendUint32(b, 1)
}

func (a *array) bytes(v []byte) {
	a.buf = append(binary.BigEndian.AppendUint32(a.buf, uint32(len(v))), v...) //nolint:gosec // at most MaxCanonical
}

func (a *array) text(v string) {
	a.buf = append(binary.BigEndian.AppendUint32(a.buf, uint32(len(v))), v...) //nolint:gosec // at most MaxCanonical
}

func (a *array) null() {
	a.buf[7] = 1 // there are nulls
	a.buf = binary.BigEndian.AppendUint32(a.buf, math.MaxUint32)
}

// postgresEpoch is what timestamps are counted from, in microseconds.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// of returns the parameters for a batch. They are good until the next call.
func (c *columns) of(key string, batch []*entry) []driver.NamedValue {
	first := &batch[0].event
	c.writer = first.WriterID
	binary.BigEndian.PutUint64(c.seq[:], uint64(first.WriterSeq)) //nolint:gosec // positive
	for i, oid := range [...]uint32{
		oidTimestamptz, oidUUID, oidUUID, oidBytea, oidText, oidText, oidText, oidText,
		oidText, oidText, oidText, oidText, oidText, oidInt4, oidInet, oidJSON,
	} {
		c.arrays[i].begin(oid, len(batch))
	}
	for _, n := range batch {
		e, a := &n.event, &c.arrays
		var eight [8]byte
		binary.BigEndian.PutUint64(eight[:], uint64(e.OccurredAt.UnixMicro()-postgresEpoch)) //nolint:gosec // two's complement is the format
		a[0].bytes(eight[:])
		a[1].bytes(e.ID[:])
		a[2].bytes(e.RequestID[:])
		a[3].bytes(n.mac[:])
		a[4].text(string(e.Kind))
		a[5].text(string(e.Phase))
		a[6].text(string(e.Decision))
		a[7].text(string(e.ActorKind))
		a[8].text(e.ActorID)
		a[9].text(e.ActorLabel)
		a[10].text(e.Action)
		a[11].text(e.App)
		a[12].text(e.Resource)
		binary.BigEndian.PutUint32(eight[:4], uint32(e.Status)) //nolint:gosec // two's complement is the format
		a[13].bytes(eight[:4])
		if e.Address.IsValid() {
			a[14].bytes(appendInet(c.address[:0], e.Address))
		} else {
			a[14].null()
		}
		a[15].bytes(n.detail)
	}
	if c.args == nil {
		c.args = make([]driver.NamedValue, 3+len(c.arrays))
		for i := range c.args {
			c.args[i].Ordinal = i + 1
		}
	}
	c.args[0].Value, c.args[1].Value, c.args[2].Value = c.writer[:], c.seq[:], []byte(key)
	for i := range c.arrays {
		c.args[3+i].Value = c.arrays[i].buf
	}
	return c.args
}

// appendInet appends an address in binary format (network_send in src/backend/utils/adt/network.c):
// family, bits of the mask, whether it is a cidr, length, address.
func appendInet(dst []byte, address netip.Addr) []byte {
	if address.Is4() {
		four := address.As4()
		return append(append(dst, 2, 32, 0, 4), four[:]...)
	}
	sixteen := address.As16()
	return append(append(dst, 3, 128, 0, 16), sixteen[:]...)
}
