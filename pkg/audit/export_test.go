package audit

// Statements are all that this package sends to the database, by name.
var Statements = map[string]string{
	"insertEvent": insertEvent, "insertBatch": insertBatch, "insertAgain": insertAgain, "selectEvent": selectEvent, "findEvent": findEvent, "findOutsideEvent": findOutsideEvent, "listEvents": listEvents,
	"markTransaction": markTransaction, "notifyAudit": notifyAudit,
}
