// sharp as a peer: one process for all photos, one thread, one decode per photo, the smaller sizes from the large one.
// Reads "FILE QUALITY [FOLDER]" lines and answers "CPU_MS BYTES..." (large, small, thumb); writes the pictures if a folder is given.
// On end of input it prints its peak memory in MB.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { writeFileSync } from "node:fs";

const sharp = createRequire(process.argv[2] + "/")("sharp");
sharp.concurrency(1);
sharp.cache(false);

async function develop(file, quality) {
  const inside = { fit: "inside", withoutEnlargement: true };
  const { data, info } = await sharp(file).rotate().resize(2048, 2048, inside).raw().toBuffer({ resolveWithObject: true });
  const raw = { width: info.width, height: info.height, channels: info.channels };
  const out = [await sharp(data, { raw }).jpeg({ quality }).toBuffer()];
  for (const edge of [1024, 320]) {
    out.push(await sharp(data, { raw }).resize(edge, edge, inside).jpeg({ quality }).toBuffer());
  }
  return out;
}

for await (const line of createInterface({ input: process.stdin })) {
  const [file, quality, folder] = line.split("\t");
  const before = process.cpuUsage();
  const out = await develop(file, Number(quality));
  const used = process.cpuUsage(before);
  if (folder) ["large", "small", "thumb"].forEach((name, i) => writeFileSync(`${folder}/${name}.jpg`, out[i]));
  console.log([(used.user + used.system) / 1000, ...out.map((bytes) => bytes.length)].join(" "));
}
console.log(process.resourceUsage().maxRSS / 1000);
