#!/usr/bin/env node
// Opens one dumped record from docs/formats.md alone: Node's crypto, no code and no dependency of ours.
//
//   node scripts/check-record.mjs dump.json                  (or - for standard input)
//   node scripts/check-record.mjs --answers docs/formats.md  (the known answers of the document, made or opened here)
//
// The dump is the JSON that docs/formats.md describes under "A dump of a record". What is printed are the record's values by
// field number, one a line. Whatever does not open, or is not in the form that the document promises, ends it with code 1.
import { createCipheriv, createDecipheriv, createHash, createHmac } from 'node:crypto';
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

const xor = (a, b) => Buffer.from(a.map((x, i) => x ^ b[i]));

// Doubling in GF(2^128), of CMAC (SP 800-38B) and of S2V (RFC 5297).
function double(b) {
  const d = Buffer.alloc(16);
  for (let i = 0; i < 16; i++) d[i] = ((b[i] << 1) & 0xff) | (i < 15 ? b[i + 1] >> 7 : 0);
  if (b[0] & 0x80) d[15] ^= 0x87;
  return d;
}

// https://c2sp.org/XAES-256-GCM: a key of its own for each nonce of 24 bytes, by CMAC.
function openXAES(what, key, sealed, ad) {
  if (sealed.length < 24 + 16) fail(`${what} is too short`);
  const k1 = double(block(key, Buffer.alloc(16)));
  const half = (n) => {
    const m = Buffer.concat([Buffer.from([0, n, 0x58, 0]), sealed.subarray(0, 12)]);
    return block(key, xor(m, k1));
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

function cmac(key, text) {
  const k1 = double(block(key, Buffer.alloc(16)));
  const whole = text.length > 0 && text.length % 16 === 0;
  const last = whole ? text.subarray(-16) : Buffer.concat([text.subarray(text.length - text.length % 16), Buffer.from([0x80]), Buffer.alloc(15 - text.length % 16)]);
  let x = Buffer.alloc(16);
  for (let at = 0; at + 16 <= text.length - (whole ? 16 : 0); at += 16) x = block(key, xor(x, text.subarray(at, at + 16)));
  return block(key, xor(x, xor(last, whole ? k1 : double(k1))));
}

// RFC 5297 with one part of associated data; texts of 16 bytes and more.
function sealSIV(key, text, ad) {
  const [mac, ctr] = [key.subarray(0, 32), key.subarray(32)];
  const d = xor(double(cmac(mac, Buffer.alloc(16))), cmac(mac, ad));
  const siv = cmac(mac, Buffer.concat([text.subarray(0, -16), xor(text.subarray(-16), d)]));
  const counter = Buffer.from(siv);
  counter[8] &= 0x7f;
  counter[12] &= 0x7f;
  return Buffer.concat([siv, createCipheriv('aes-256-ctr', ctr, counter).update(text)]);
}

function base62(bytes) {
  const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
  let n = BigInt('0x' + bytes.toString('hex')), text = '';
  for (; n > 0n; n /= 62n) text = digits[Number(n % 62n)] + text;
  return text.padStart(Math.ceil(8 * bytes.length / Math.log2(62)), '0');
}

// answers holds what the document says against what comes out here.
function answers(document) {
  const said = (name) => document.match(new RegExp(`^${name} +(\\S+)$`, 'm'))?.[1] ?? fail(`the document has no ${name}`);
  const bytes = (name) => Buffer.from(said(name), 'hex');
  const run = (first, n) => Buffer.from(Array.from({ length: n }, (_, i) => first + i));
  const same = (name, got) => { if (got !== said(name)) fail(`${name} is ${got}`); console.log(name); };
  const label = (text) => Buffer.from(`privault/1/${text}`);
  const [deployment, tenant, collection, record] = [0x10, 0x20, 0x30, 0x40].map((n) => run(n, 16));
  const hmac = (...parts) => createHmac('sha256', run(0, 32)).update(Buffer.concat(parts.map((p) => Buffer.from(p)))).digest('hex');
  const place = Buffer.concat([collection, Buffer.from([0, 2])]);

  const sealed = bytes('keyset-sealed');
  const keyset = openGCM('the keyset', run(0x60, 32), sealed.subarray(0, 12), sealed.subarray(12), Buffer.concat([label('keyset'), deployment, tenant, Buffer.from('wrap')]));
  same('keyset', keyset.toString('hex'));
  const wrapped = bytes('dek-wrapped');
  if (wrapped[0] !== 1) fail('the data key has no Tink prefix');
  const dek = openXAES('the data key', xaesKey(keyset, wrapped.readUInt32BE(1)), wrapped.subarray(5), Buffer.concat([label('dek'), deployment, tenant, record, u32(3)]));
  same('dek', dek.toString('hex'));
  same('kms-key', createHash('sha256').update(said('kms-uri')).digest().subarray(0, 8).toString('hex'));
  same('dek-direct', '02' + said('kms-key') + said('kms-made'));
  const pointer = sealSIV(run(0xc0, 64), Buffer.concat([record, Buffer.from([0, 2, 0, 0])]), Buffer.concat([label('token'), deployment, tenant]));
  same('pointer', 'pvtk_' + base62(Buffer.concat([Buffer.from([1, 5, 6, 7, 8]), pointer])));
  same('subject-digest', hmac('subject\0cust-1001'));
  same('api-key-digest', hmac('api-key\0', said('api-key')));
  same('index-digest', hmac(label('index'), place, 'exact\0jane@example.com'));
  same('value-digest', hmac(label('value'), place, 'jane@example.com'));
  same('text-digest', hmac(label('text'), place, 'abc-1001'));
  same('alias-key', hmac(label('alias-key'), place, 'jane@example.com'));
}

function dataKey(dump, label, deployment, tenant, record, version) {
  const wrapped = hex(dump, 'wrapped');
  if (wrapped[0] === 2) {
    // What the KMS made opens in the KMS alone: the dump has the data key as the KMS gave it.
    const id = createHash('sha256').update(dump.kms_uri ?? fail('kms_uri is missing')).digest().subarray(0, 8);
    if (wrapped.length <= 9 || !wrapped.subarray(1, 9).equals(id)) fail('the data key is of another KMS key');
    return hex(dump, 'dek', 32);
  }
  const box = hex(dump, 'keyset');
  const keyset = openGCM('the keyset', hex(dump, 'root', 32), box.subarray(0, 12), box.subarray(12),
    Buffer.concat([label('keyset'), deployment, tenant, Buffer.from('wrap')]));
  if (wrapped[0] !== 1 || wrapped.length < 5) fail('the data key has no Tink prefix');
  return openXAES('the data key', xaesKey(keyset, wrapped.readUInt32BE(1)), wrapped.subarray(5),
    Buffer.concat([label('dek'), deployment, tenant, record, u32(version)]));
}

function open(dump) {
  const deployment = hex(dump, 'deployment', 16), tenant = hex(dump, 'tenant', 16);
  const collection = hex(dump, 'collection', 16), record = hex(dump, 'record', 16);
  const version = dump.version;
  if (!Number.isInteger(version) || version < 1) fail('version is not a positive number');
  const label = (text) => Buffer.from(`privault/1/${text}`);

  const dek = dataKey(dump, label, deployment, tenant, record, version);
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
  if (from === '--answers') answers(readFileSync(process.argv[3] ?? fail('name the document'), 'utf8'));
  else for (const [number, value] of open(JSON.parse(readFileSync(from === '-' ? 0 : from, 'utf8')))) {
    console.log(JSON.stringify({ field: number, value }));
  }
} catch (e) {
  console.error(`check-record: ${e.message}`);
  process.exitCode = 1;
}
