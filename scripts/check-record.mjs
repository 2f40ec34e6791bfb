#!/usr/bin/env node
// Opens one dumped record from docs/formats.md alone: Node's crypto, no code and no dependency of ours.
//
//   node scripts/check-record.mjs dump.json        (or - for standard input)
//
// The dump is the JSON that docs/formats.md describes under "A dump of a record". What is printed are the record's values by
// field number, one a line. Whatever does not open, or is not in the form that the document promises, ends it with code 1.
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { readFileSync } from 'node:fs';

const fail = (why) => { throw new Error(why); };

function hex(dump, name, length) {
  const text = dump[name];
  if (typeof text !== 'string' || !/^([0-9a-f]{2})*$/.test(text)) fail(`${name} is not lower-case hex`);
  const bytes = Buffer.from(text, 'hex');
  if (length !== undefined && bytes.length !== length) fail(`${name} has ${bytes.length} bytes, not ${length}`);
  return bytes;
}

const u32 = (n) => { const b = Buffer.alloc(4); b.writeUInt32BE(n); return b; };

// NIST SP 800-38D. sealed is ciphertext and a tag of 16 bytes.
function openGCM(what, key, nonce, sealed, ad) {
  if (sealed.length < 16) fail(`${what} is too short`);
  const d = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 });
  d.setAAD(ad);
  d.setAuthTag(sealed.subarray(-16));
  const open = d.update(sealed.subarray(0, -16));
  try {
    return Buffer.concat([open, d.final()]);
  } catch {
    return fail(`${what} does not open`);
  }
}

function block(key, input) {
  const c = createCipheriv('aes-256-ecb', key, null);
  c.setAutoPadding(false);
  return Buffer.concat([c.update(input), c.final()]);
}

// https://c2sp.org/XAES-256-GCM: a key of its own for each nonce of 24 bytes, by CMAC.
function openXAES(what, key, sealed, ad) {
  if (sealed.length < 24 + 16) fail(`${what} is too short`);
  const l = block(key, Buffer.alloc(16));
  const k1 = Buffer.alloc(16);
  for (let i = 0; i < 16; i++) k1[i] = ((l[i] << 1) & 0xff) | (i < 15 ? l[i + 1] >> 7 : 0);
  if (l[0] & 0x80) k1[15] ^= 0x87;
  const half = (n) => {
    const m = Buffer.concat([Buffer.from([0, n, 0x58, 0]), sealed.subarray(0, 12)]);
    for (let i = 0; i < 16; i++) m[i] ^= k1[i];
    return block(key, m);
  };
  return openGCM(what, Buffer.concat([half(1), half(2)]), sealed.subarray(12, 24), sealed.subarray(24), ad);
}

// A reader of base-128 varints and of the two kinds of field of Protocol Buffers that a Tink keyset has.
function uvarint(bytes, at) {
  let n = 0n, shift = 0n;
  for (;;) {
    if (at >= bytes.length || shift > 63n) fail('a varint has no end');
    const b = bytes[at++];
    n |= BigInt(b & 0x7f) << shift;
    if (b < 0x80) return [n, at];
    shift += 7n;
  }
}

function fields(bytes) {
  const out = [];
  for (let at = 0; at < bytes.length;) {
    let tag, n;
    [tag, at] = uvarint(bytes, at);
    [n, at] = uvarint(bytes, at);
    const number = Number(tag >> 3n);
    if ((tag & 7n) === 0n) {
      out.push([number, n]);
    } else if ((tag & 7n) === 2n) {
      const end = at + Number(n);
      if (end > bytes.length) fail('a keyset ends early');
      out.push([number, bytes.subarray(at, end)]);
      at = end;
    } else {
      fail('a keyset has a field of an unknown kind');
    }
  }
  return out;
}

const field = (bytes, number) => fields(bytes).find(([n]) => n === number)?.[1];

// tink.proto: Keyset{primary_key_id = 1; key = 2}, Key{key_data = 1; status = 2; key_id = 3; output_prefix_type = 4},
// KeyData{type_url = 1; value = 2}; x_aes_gcm.proto: XAesGcmKey{version = 1; params = 2; key_value = 3}.
function xaesKey(keyset, id) {
  for (const [number, key] of fields(keyset)) {
    if (number !== 2 || Number(field(key, 3) ?? 0n) !== id) continue;
    if (field(key, 2) !== 1n) fail('the key is not enabled');
    if (field(key, 4) !== 1n) fail('the key has another output prefix');
    const data = field(key, 1);
    if (field(data, 1).toString() !== 'type.googleapis.com/google.crypto.tink.XAesGcmKey') fail('the key is of another type');
    const value = field(data, 2);
    if (field(field(value, 2), 1) !== 12n) fail('the key has another salt size');
    const raw = field(value, 3);
    if (raw.length !== 32) fail('the key has another length');
    return raw;
  }
  return fail('the keyset has no key of that id');
}

function open(dump) {
  const deployment = hex(dump, 'deployment', 16), tenant = hex(dump, 'tenant', 16);
  const collection = hex(dump, 'collection', 16), record = hex(dump, 'record', 16);
  const version = dump.version;
  if (!Number.isInteger(version) || version < 1) fail('version is not a positive number');
  const label = (text) => Buffer.from(`privault/1/${text}`);

  const box = hex(dump, 'keyset');
  const keyset = openGCM('the keyset', hex(dump, 'root', 32), box.subarray(0, 12), box.subarray(12),
    Buffer.concat([label('keyset'), deployment, tenant, Buffer.from('wrap')]));

  const wrapped = hex(dump, 'wrapped');
  if (wrapped[0] !== 1 || wrapped.length < 5) fail('the data key has no Tink prefix');
  const dek = openXAES('the data key', xaesKey(keyset, wrapped.readUInt32BE(1)), wrapped.subarray(5),
    Buffer.concat([label('dek'), deployment, tenant, record, u32(version)]));
  if (dek.length !== 32) fail('the data key has another length');

  const sealed = hex(dump, 'sealed');
  if (sealed[0] !== 1) fail('the record is of another format');
  const values = [];
  for (let at = 1, last = -1; at < sealed.length;) {
    let number, length;
    [number, at] = uvarint(sealed, at);
    [length, at] = uvarint(sealed, at);
    number = Number(number);
    const end = at + Number(length);
    if (number <= last || end > sealed.length) fail('the boxes are out of order');
    last = number;
    const one = sealed.subarray(at, end);
    at = end;
    const plain = openGCM(`field ${number}`, dek, one.subarray(0, 12), one.subarray(12), Buffer.concat([
      Buffer.from('privault/'), Buffer.from([1]), deployment, tenant, collection, record, u32(number), u32(version)]));
    const [size, begins] = uvarint(plain, 0);
    const stop = begins + Number(size);
    if (stop > plain.length || plain.subarray(stop).some((b) => b !== 0)) fail(`field ${number} is not padded with zeros`);
    values.push([number, plain.subarray(begins, stop).toString()]);
  }
  return values;
}

try {
  const from = process.argv[2] ?? fail('name the dump');
  for (const [number, value] of open(JSON.parse(readFileSync(from === '-' ? 0 : from, 'utf8')))) {
    console.log(JSON.stringify({ field: number, value }));
  }
} catch (e) {
  console.error(`check-record: ${e.message}`);
  process.exitCode = 1;
}
