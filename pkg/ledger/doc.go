// Package ledger makes the record one that anybody can check and nobody can rewrite: it gives every event a place,
// builds an RFC 6962 tree over them, signs its heads, copies all of it to storage that cannot be overwritten, and
// verifies what it finds there and in the database.
//
// Who trusts whom: the sequencer trusts the database to keep what it committed, and nothing it reads back of the
// tree, which it holds against the checkpoint that it signed. Storage is trusted for nothing. An auditor trusts the
// public key alone.
//
//	events committed ─▶ Sequencer ─▶ leaves, hashes, checkpoint ─▶ Follower (live tail, export, push, notices)
//	                                                            └▶ Anchor ─▶ S3 Object Lock
//
// Why the order is safe. An event carries the id of its transaction. The sequencer takes those below the horizon,
// pg_snapshot_xmin: whatever is below it has ended, so nothing can appear there any more, and order by (transaction,
// writer, number) is final. One batch is one database transaction, in the session that holds an advisory lock: when
// that session is gone, so are the lock and the batch. Should two ever run all the same, only one of them can insert
// the checkpoint that follows a given one, since its previous size is unique.
//
// What the window is. Between its insert and its sequencing, a fraction of a second, an event is protected by its MAC
// and by its writer's numbers, which the database cannot forge: an edit or a deletion shows as an alert. Between
// sequencing and the next anchored checkpoint, a minute, somebody with a superuser's powers could roll the whole database
// back: the sequencer that runs would notice, and one that starts anew would not. After that nobody can.
package ledger
