// Package vault is the domain: the state, the transactions and all SQL, a file for each noun.
//
// A Vault keeps personal data in Postgres. Each record's values are sealed under the record's own data-encryption key
// (DEK, package seal); DEKs are wrapped by the tenant's `wrap` keyset; keysets are sealed under the tenant's root key,
// which the KMS wraps (keyring.go). Callers hold tokens (token.go) in place of values.
//
// # The gate
//
// gate.go and commit.go are the only way to the database and to plaintext:
// no decision, no commit; no decision, no plaintext; no audit entry, no answer.
// Every operation takes the Caller as a parameter. It asks package policy for what it touches, and its audit entry
// commits in the same transaction as its work. A denied or failed call leaves exactly one entry too.
//
// There are two ways through. Operations on many small things (tokenize, detokenize, reading a record) hand a change to
// the group commit, which lets changes that arrive together share a transaction. Everything else runs in a transaction
// of its own, inside Vault.within.
//
// # Tenants
//
// Whatever a tenant owns is kept apart three times: tenant_id stands first in every key and every WHERE; row-level
// security shows a transaction only the tenant that it named; and the tenant is in the associated data of every
// ciphertext.
//
// # The files
//
//	the gate      gate commit group column (how rows travel) store errors trail decide fetch refusal (calls that end before)
//	keys          kek keyring direct rotation uses move generation (who knows the newest) late rewrap redigest (what old keys
//	              made) retire orphan inventory versioned secret
//	schemas       collection field
//	retention     retention lifetime revealed minimum (what is due), sweeper disposal (what becomes of it), sweep retention_plan, brake
//	              simulation (before it does harm), retention_summary
//	values        tokenize record reveal resolve token export (the way out)
//	aliases       alias mint (their texts); index search (blind indexes); bind bond rebind lookup (what ties records to both,
//	              when they are made, committed, changed and read); reissue (new tokens for old)
//	transforms    transform
//	behaviour     budget (enumeration); alarm (what is sudden), response (what is done about it)
//	who may what  tenant principal credential outsider; policies purpose law explain
//	people        subject link (several references of one) jurisdiction hold erasure partial; consent fact (what they said, as the policy sees it)
//	requests      request step (the states) fulfil (what is done) clock overdue (the dates) denial tally (the year's counts)
//	packages      package (what a person gets) processing (what it is told) delivery (once)
//	backups       ledger (what a restored database is told again) fence (that it was) replay drill
//	who is told   webhook event (in the transaction of the cause) outbox (sending) recipient (who has acknowledged an erasure)
//	who stays out suppression
//	evidence      log sequencer safekeeping witness (the Merkle log); evidence disclosure shipping (reading it); prune; reconcile
//	beside        jobs idempotency cursor id metrics doctor
package vault
